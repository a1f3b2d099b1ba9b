"""The control API for agents: one suite for the fake and for the real one."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.databases import CHEAP_ROUNDS, migrated_store
from tests.ports import free_port
from tests.waiting import HANG_SECONDS, until

from openimds.client.control_client import ControlClient
from openimds.client.errors import ControlApiError, RevisionGoneError
from openimds.client.mirror import CloudMirror
from openimds.client.session import connect
from openimds.client.testing import FakeControl
from openimds.resources.auth import AuthOptions
from openimds.store.bootstrap import bootstrap
from openimds.store.engine import utc_now

KINDS = ("network", "subnet", "port", "router", "floatingip", "server")
SERVICE_PASSWORD = "a-service-password"


@dataclass
class Cloud:
    client: ControlClient
    auth: AuthOptions
    network_id: str
    """A network with a subnet 10.7.0.0/24."""


@contextmanager
def fake_cloud() -> Iterator[Cloud]:
    with FakeControl() as fake:
        network_id = str(uuid.uuid4())
        fake.put("network", {"id": network_id, "name": "n", "project_id": "p"})
        fake.put(
            "subnet", {"id": str(uuid.uuid4()), "network_id": network_id, "project_id": "p", "cidr": "10.7.0.0/24"}
        )
        with connected(fake.auth, network_id) as cloud:
            yield cloud


@contextmanager
def real_cloud(folder: Path) -> Iterator[Cloud]:
    store = migrated_store(folder)
    bootstrap(store, "an-admin-password", SERVICE_PASSWORD, folder / "images", utc_now(), CHEAP_ROUNDS)
    store.close()
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    file = folder / "nova.conf"
    file.write_text(
        f"[DEFAULT]\nstate_path = {folder}\n[control_api]\nport = {port}\npublic_url = {url}\n"
        f"[database]\nconnection = sqlite:///{folder}/openimds.sqlite\n"
    )
    argv = [sys.executable, "-m", "openimds", "control-api", "--config-file", str(file)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, env={**os.environ, "PYTHONWARNINGS": ""})
    try:
        until(lambda: "] ready " in (folder / "log").read_text())
        auth = AuthOptions(auth_url=url, username="neutron", password=SERVICE_PASSWORD, project_name="service")
        session = connect(auth)
        network = session.post(
            f"{url}/network/v2.0/networks", json={"network": {"name": "n", "port_security_enabled": True}}
        ).json()["network"]
        subnet = {"network_id": network["id"], "ip_version": 4, "cidr": "10.7.0.0/24"}
        session.post(f"{url}/network/v2.0/subnets", json={"subnet": subnet})
        session.session.close()
        with connected(auth, network["id"]) as cloud:
            yield cloud
    finally:
        process.terminate()
        process.wait(HANG_SECONDS)


@contextmanager
def connected(auth: AuthOptions, network_id: str) -> Iterator[Cloud]:
    session = connect(auth)
    yield Cloud(ControlClient(session), auth, network_id)
    session.session.close()


@pytest.fixture(scope="module", params=["fake", "real"])
def cloud(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with fake_cloud() if request.param == "fake" else real_cloud(tmp_path_factory.mktemp("cloud")) as made:
        yield made


def test_snapshot_has_every_kind(cloud: Cloud):
    snapshot = cloud.client.snapshot(KINDS)
    assert set(snapshot.objects) == set(KINDS)
    assert snapshot.revision > 0
    assert snapshot.objects["network"][cloud.network_id].id == cloud.network_id
    assert [subnet.cidr for subnet in snapshot.objects["subnet"].values()] == ["10.7.0.0/24"]  # type: ignore[union-attr]


def test_changes_are_in_commit_order(cloud: Cloud):
    before = cloud.client.snapshot(KINDS).revision
    made = cloud.client.create_port({"network_id": cloud.network_id, "name": "a", "device_owner": "network:dhcp"})
    cloud.client.update_port(made.id, {"name": "b"})
    changes = cloud.client.changes(before, ("port",), 5)
    assert changes.revision > before
    (change,) = [each for each in changes.changes if each.id == made.id]
    assert change.object == cloud.client.list_ports(id=made.id)[0]
    assert change.object.name == "b"
    cloud.client.delete_port(made.id)
    (deleted,) = [each for each in cloud.client.changes(changes.revision, ("port",), 5).changes if each.id == made.id]
    assert deleted.object is None
    cloud.client.delete_port(made.id)


def test_watch_without_changes_ends_at_its_timeout(cloud: Cloud):
    revision = cloud.client.snapshot(KINDS).revision
    answer = cloud.client.changes(revision, KINDS, 0.1)
    assert answer.changes == ()
    assert answer.revision >= revision


def test_change_ends_a_waiting_watch(cloud: Cloud):
    revision = cloud.client.snapshot(KINDS).revision
    with connected(cloud.auth, cloud.network_id) as other, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(other.client.changes, revision, KINDS, 60)
        for _ in range(3):
            cloud.client.list_ports(id="nobody's")  # others are answered meanwhile
        assert not waiting.done()
        made = cloud.client.create_port({"network_id": cloud.network_id, "device_owner": "network:dhcp"})
        assert made.id in {change.id for change in waiting.result().changes}
    cloud.client.delete_port(made.id)


def test_revision_of_another_store_is_gone(cloud: Cloud):
    with pytest.raises(RevisionGoneError):
        cloud.client.changes(10_000_000, KINDS, 0)


def test_ports_are_filtered_by_network_and_address(cloud: Cloud):
    made = cloud.client.create_port(
        {
            "network_id": cloud.network_id,
            "fixed_ips": [{"ip_address": "10.7.0.77"}]
            if cloud.auth.username != "agent"
            else [{"ip_address": "10.7.0.77", "subnet_id": "s"}],
            "device_id": "vm-1",
            "device_owner": "compute:nova",
            "mac_address": "fa:16:3e:00:00:77",
            "binding:host_id": "node1",
        }
    )
    assert made.host == "node1"
    assert made.ip_addresses == ("10.7.0.77",)
    for filters in (
        {"network_id": [cloud.network_id], "fixed_ips": "ip_address=10.7.0.77"},
        {"network_id": [cloud.network_id, str(uuid.uuid4())], "mac_address": "fa:16:3e:00:00:77"},
        {"device_id": "vm-1"},
    ):
        assert cloud.client.list_ports(**filters) == [made]
    assert cloud.client.list_ports(network_id=str(uuid.uuid4()), fixed_ips="ip_address=10.7.0.77") == []
    assert cloud.client.list_ports(network_id=[cloud.network_id], fixed_ips="ip_address=10.7.0.78") == []
    cloud.client.delete_port(made.id)


def test_mirror_follows_changes(cloud: Cloud):
    mirror = CloudMirror(cloud.client, ("port", "network"), poll_seconds=1)
    mirror.start()
    try:
        assert mirror.wait_ready(HANG_SECONDS)
        made = cloud.client.create_port({"network_id": cloud.network_id, "device_owner": "network:dhcp"})
        until(lambda: mirror.view().ports.get(made.id) == made)
        cloud.client.delete_port(made.id)
        until(lambda: made.id not in mirror.view().ports)
        assert cloud.network_id in mirror.view().networks
    finally:
        mirror.stop(5)


def test_reports_of_agents_are_stored(cloud: Cloud):
    made = cloud.client.create_port({"network_id": cloud.network_id, "device_owner": "network:dhcp"})
    for entity in ("dhcp", "l2", "dhcp"):
        cloud.client.port_provisioned(made.id, entity)
    cloud.client.port_unplugged(made.id)
    cloud.client.delete_port(made.id)
    cloud.client.send_heartbeat(
        "openimds-metadata-agent",
        "node1",
        agent_type="Metadata agent",
        started_at=datetime.now(UTC),
        configurations={"ports": 1, "nested": {"a": [1, 2]}},
    )


def test_wrong_password_is_401(cloud: Cloud):
    auth = AuthOptions(
        auth_url=cloud.auth.auth_url, username=cloud.auth.username, password="wrong", project_name="service"
    )
    session = connect(auth)
    with pytest.raises(ControlApiError) as caught:
        ControlClient(session).snapshot(KINDS)
    assert caught.value.status == 401
    session.session.close()
