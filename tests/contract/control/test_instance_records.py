"""Instance records for metadata agents over a real control API: access, and the objects that each change names."""

from __future__ import annotations

import base64
import json
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from tests.contract.control.stage import SERVICE_PASSWORD, Cloud, ComputeAgent, Session
from tests.waiting import HANG_SECONDS

from openimds.client.instance_records import InstanceRecordSource
from openimds.client.session import connect
from openimds.client.testing import FakeControl
from openimds.metadata.context import DocumentSettings
from openimds.resources.auth import AuthOptions
from openimds.resources.errors import NotOffered, StoreUnavailable
from openimds.resources.instance import ChangeSet
from openimds.store.importer.importer import InstanceStore

ROOT = "/openimds/v1"
CALLS: list[tuple[str, str, Any]] = [
    ("POST", "/instances", {"instance_ids": []}),
    ("GET", "/instance_changes", None),
    ("GET", "/guest_settings", None),
]
USER_DATA = bytes(range(256))


def auth_of(cloud: Cloud) -> AuthOptions:
    return AuthOptions(
        auth_url=f"{cloud.url}/v3", username="neutron", password=SERVICE_PASSWORD, project_name="service"
    )


@pytest.fixture(scope="module")
def remote(cloud: Cloud) -> Iterator[InstanceRecordSource]:
    session = connect(auth_of(cloud))
    instances = InstanceRecordSource(session, poll_seconds=5)
    instances.start()
    yield instances
    instances.close()
    session.session.close()


@pytest.fixture(scope="module")
def network(admin: Session) -> dict[str, Any]:
    made: dict[str, Any] = admin.post("/network/v2.0/networks", {"network": {"name": "n"}})["network"]
    subnet = {"network_id": made["id"], "cidr": "10.8.0.0/16", "ip_version": 4}
    made["subnet"] = admin.post("/network/v2.0/subnets", {"subnet": subnet})["subnet"]
    return made


@pytest.fixture(scope="module")
def server(admin: Session, agent: ComputeAgent, network: dict[str, Any]) -> dict[str, Any]:
    return boot(admin, network, "vm")


def boot(admin: Session, network: dict[str, Any], name: str) -> dict[str, Any]:
    """A server, with its port under the key `port`."""
    image = admin.get("/image/v2/images")["images"][0]["id"]
    flavor = admin.get("/compute/v2.1/flavors")["flavors"][0]["id"]
    body = {
        "name": name,
        "imageRef": image,
        "flavorRef": flavor,
        "networks": [{"uuid": network["id"]}],
        "user_data": base64.b64encode(USER_DATA).decode(),
        "metadata": {"a": "\u00e4\U0001f600"},
    }
    made: dict[str, Any] = admin.post("/compute/v2.1/servers", {"server": body})["server"]
    made["port"] = admin.get(f"/network/v2.0/ports?device_id={made['id']}")["ports"][0]
    return made


class TestWho:
    @pytest.mark.parametrize(("method", "path", "body"), CALLS)
    def test_request_without_a_token_is_401(self, cloud: Cloud, method: str, path: str, body: Any) -> None:
        Session(cloud, "", {}).refused(401, method, ROOT + path, body)
        Session(cloud, "gAAAAAguess", {}).refused(401, method, ROOT + path, body)

    def test_members_are_rejected(self, cloud: Cloud) -> None:
        member = cloud.member("curious")
        for method, path, body in CALLS:
            assert "role service or admin" in member.refused(403, method, ROOT + path, body)

    @pytest.mark.parametrize(("method", "path", "body"), CALLS)
    def test_agents_and_operators_get_uncacheable_records(
        self, cloud: Cloud, admin: Session, method, path, body
    ) -> None:
        agent = cloud.login("neutron", SERVICE_PASSWORD, "service")
        for caller in (agent, admin):
            answer = caller.call(method, ROOT + path, body)
            assert answer.status_code == 200, answer.text
            assert answer.headers["Cache-Control"] == "no-store"

    def test_agent_without_the_role_gets_the_reason(self, cloud: Cloud) -> None:
        cloud.member("nobody")
        session = connect(
            AuthOptions(auth_url=f"{cloud.url}/v3", username="nobody", password="nobody", project_name="nobody")
        )
        instances = InstanceRecordSource(session)
        with pytest.raises(StoreUnavailable, match=r"403: .* role service or admin") as refused:
            instances.after(None)
        assert not isinstance(refused.value, NotOffered)
        session.session.close()


class TestRecords:
    def test_existing_ids_are_returned_as_records(
        self, cloud: Cloud, remote: InstanceRecordSource, server: dict[str, Any]
    ) -> None:
        store = InstanceStore(cloud.store)
        gone = str(uuid.uuid4())
        asked = [remote.instance_future(instance_id) for instance_id in (server["id"], gone)]
        found = asked[0].result(HANG_SECONDS)
        assert found == store.instance(server["id"])
        assert found is not None
        assert found.user_data == USER_DATA
        assert found.nics[0].port_id == server["port"]["id"]
        assert asked[1].result(HANG_SECONDS) is None

    def test_concurrent_queries_are_one_request(self, admin: Session) -> None:
        ids = [str(uuid.uuid4()) for _ in range(1000)]
        answer = admin.post(f"{ROOT}/instances", {"instance_ids": ids})
        assert answer["instances"] == dict.fromkeys(ids)
        assert answer["revision"] > 0

    @pytest.mark.parametrize("ids", [["a\x00b"], ["../x"], [1], "x", ["x"] * 1001])
    def test_malformed_ids_are_rejected(self, admin: Session, ids: Any) -> None:
        assert "instance_ids" in admin.refused(400, "POST", f"{ROOT}/instances", {"instance_ids": ids})

    def test_record_that_cannot_be_encoded_is_left_out(self, cloud: Cloud, remote: InstanceRecordSource) -> None:
        instance_id = str(uuid.uuid4())
        document = {"uuid": instance_id, "project_id": "p", "hostname": "vm", "metadata": {"a": "\ud800"}}
        InstanceStore(cloud.store).import_instances({"instances": [document]})
        with pytest.raises(NotOffered, match=instance_id):
            remote.instance(instance_id)


class TestNews:
    @pytest.fixture
    def hears(self, remote: InstanceRecordSource) -> Any:
        """Makes a change during a poll. Returns all objects that the polls named."""

        def hears(change: Any) -> ChangeSet:
            before = remote.after(None).revision
            change()
            seen: list[ChangeSet] = []

            def quiet() -> bool:
                while remote.newest() == before:
                    pass
                seen.append(remote.after(before))
                return True

            assert quiet()
            return seen[0]

        return hears

    def test_change_of_the_server_names_the_instance(self, admin: Session, server: dict[str, Any], hears: Any) -> None:
        path = f"/compute/v2.1/servers/{server['id']}/metadata"
        assert hears(lambda: admin.post(path, {"metadata": {"k": "v"}})).instance_ids == {server["id"]}

    def test_new_password_names_the_instance(self, cloud: Cloud, server: dict[str, Any], hears: Any) -> None:
        store = InstanceStore(cloud.store)
        assert hears(lambda: store.set_password_once(server["id"], "sealed")).instance_ids == {server["id"]}

    def test_change_of_a_fixed_ip_names_the_instance(self, admin: Session, server: dict[str, Any], hears: Any) -> None:
        address = {"fixed_ips": [{"ip_address": "10.8.7.7"}]}
        touched = hears(lambda: admin.put(f"/network/v2.0/ports/{server['port']['id']}", {"port": address}))
        assert touched.port_ids == {server["port"]["id"]}
        assert touched.instance_ids == {server["id"]}

    def test_change_of_a_subnet_names_the_network(self, admin: Session, network: dict[str, Any], hears: Any) -> None:
        body = {"subnet": {"dns_nameservers": ["192.0.2.1"]}}
        touched = hears(lambda: admin.put(f"/network/v2.0/subnets/{network['subnet']['id']}", body))
        assert touched.network_ids == {network["id"]}

    def test_tag_of_a_subnet_names_the_network(self, admin: Session, network: dict[str, Any], hears: Any) -> None:
        touched = hears(lambda: admin.put(f"/network/v2.0/subnets/{network['subnet']['id']}/tags/blue", None))
        assert touched.network_ids == {network["id"]}

    def test_renamed_security_group_means_everything(self, admin: Session, hears: Any) -> None:
        groups = "/network/v2.0/security-groups"
        made = admin.post(groups, {"security_group": {"name": "web"}})["security_group"]["id"]
        assert hears(lambda: admin.put(f"{groups}/{made}", {"security_group": {"name": "www"}})).everything

    def test_new_key_pair_changes_no_record(self, cloud: Cloud, admin: Session) -> None:
        before = admin.get(f"{ROOT}/instance_changes")["revision"]
        admin.post("/compute/v2.1/os-keypairs", {"keypair": {"name": "k"}})
        answer = admin.get(f"{ROOT}/instance_changes?after={before}&timeout=0")
        assert answer["instance_ids"] == []
        assert answer["everything"] is False

    def test_import_into_another_project_drops_the_old_record(
        self, cloud: Cloud, remote: InstanceRecordSource, hears: Any
    ) -> None:
        """The record of the first project, including the password, is dropped. Both imports are reported as changes."""
        store = InstanceStore(cloud.store)
        one = {"uuid": str(uuid.uuid4()), "hostname": "vm"}
        first = one | {"project_id": "one", "user_data_b64": "b25l", "system_metadata": {"password_0": "one's"}}
        assert hears(lambda: store.import_instances({"instances": [first]})).instance_ids == {one["uuid"]}
        told = remote.instance(one["uuid"])
        assert told is not None
        assert (told.project_id, told.user_data, told.password) == ("one", b"one", "one's")
        second = one | {"project_id": "two", "user_data_b64": "dHdv"}
        assert hears(lambda: store.import_instances({"instances": [second]})).instance_ids == {one["uuid"]}
        told = remote.instance(one["uuid"])
        assert told is not None
        assert (told.project_id, told.user_data, told.password) == ("two", b"two", None)

    def test_renamed_project_and_user_change_no_record(
        self, cloud: Cloud, admin: Session, remote: InstanceRecordSource, server: dict[str, Any]
    ) -> None:
        before = admin.get(f"{ROOT}/instance_changes")["revision"]
        told = remote.instance_future(server["id"]).result(HANG_SECONDS)
        for kind, name, own in (("project", "projects", admin.project_id), ("user", "users", admin.user_id)):
            path = f"/v3/{name}/{own}"
            old = admin.get(path)[kind]["name"]
            assert admin.call("PATCH", path, {kind: {"name": "renamed"}}).status_code == 200
            assert admin.call("PATCH", path, {kind: {"name": old}}).status_code == 200
        answer = admin.get(f"{ROOT}/instance_changes?after={before}&timeout=0")
        assert (answer["instance_ids"], answer["everything"]) == ([], False)
        assert InstanceStore(cloud.store).instance(server["id"]) == told

    def test_revision_outside_the_change_log_means_everything(self, admin: Session) -> None:
        assert admin.get(f"{ROOT}/instance_changes?after=1000000&timeout=0")["everything"]
        assert admin.get(f"{ROOT}/instance_changes")["everything"]

    def test_change_ends_a_waiting_poll(self, cloud: Cloud, admin: Session, server: dict[str, Any]) -> None:
        before = admin.get(f"{ROOT}/instance_changes")["revision"]
        heard: list[dict[str, Any]] = []
        path = f"{ROOT}/instance_changes?after={before}&timeout=60"
        waiting = threading.Thread(target=lambda: heard.append(admin.get(path)))
        waiting.start()
        admin.post(f"/compute/v2.1/servers/{server['id']}/metadata", {"metadata": {"k": str(uuid.uuid4())}})
        waiting.join(HANG_SECONDS)  # a poll that times out returns nothing
        assert heard[0]["instance_ids"] == [server["id"]]


class TestSettings:
    def test_document_settings_follow_nova_conf(self, cloud: Cloud, admin: Session) -> None:
        answer = admin.call("GET", f"{ROOT}/guest_settings")
        etag = answer.headers["ETag"]
        assert json.loads(answer.content)["digest"] == etag.strip('"')
        again = admin.call("GET", f"{ROOT}/guest_settings", headers={"If-None-Match": etag})
        assert (again.status_code, again.content) == (304, b"")

    def test_agent_reads_settings_and_their_changes(self, remote: InstanceRecordSource, cloud: Cloud) -> None:
        assert remote.settings() == DocumentSettings()
        heard: list[DocumentSettings] = []
        remote.subscribe_settings(heard.append)
        remote.after(None)
        conf = cloud.state / "nova.conf"
        conf.write_text(f"{conf.read_text()}[api]\ndhcp_domain = example.org\n")
        cloud.reload()
        while not heard:
            remote.newest()
        assert remote.settings() == heard[0] == DocumentSettings(dhcp_domain="example.org")


def test_cloud_without_the_extension_is_detected() -> None:
    with FakeControl() as fake:  # it has the watch, and not this
        session = connect(fake.auth)
        instances = InstanceRecordSource(session)
        instances.start()
        for question in (lambda: instances.after(None), instances.settings, lambda: instances.instance("vm")):
            with pytest.raises(NotOffered, match="has no instance records"):
                question()
        instances.close()
        session.session.close()


def test_unreachable_control_api_is_unavailable() -> None:
    with FakeControl() as fake:
        auth = fake.auth
    session = connect(auth)
    instances = InstanceRecordSource(session)
    with pytest.raises(StoreUnavailable) as away:
        instances.after(None)
    assert not isinstance(away.value, NotOffered)
    session.session.close()
