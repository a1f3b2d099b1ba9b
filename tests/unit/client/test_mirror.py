"""The mirror and the client, against the fake control API over real HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from structlog.testing import capture_logs
from tests.builders import port_document
from tests.waiting import HANG_SECONDS, until

from openimds.client.control_client import ControlClient
from openimds.client.errors import ControlApiError, NoWatchError, RevisionGoneError
from openimds.client.mirror import CloudMirror, CloudView
from openimds.client.session import connect, with_v3_suffix
from openimds.client.testing import FakeControl

KINDS = ("network", "port", "router")


@pytest.fixture
def fake() -> Iterator[FakeControl]:
    with FakeControl() as control:
        yield control


@pytest.fixture
def client(fake: FakeControl) -> Iterator[ControlClient]:
    session = connect(fake.auth)
    yield ControlClient(session)
    session.session.close()


@pytest.fixture
def mirror(client: ControlClient) -> Iterator[CloudMirror]:
    mirror = CloudMirror(client, KINDS, poll_seconds=0.5)
    mirror.start()
    yield mirror
    mirror.stop(5)


def test_mirror_applies_the_snapshot_and_then_changes(fake, mirror):
    fake.put("port", port_document("p1"))
    assert mirror.wait_ready(HANG_SECONDS)
    until(lambda: "p1" in mirror.view().ports)
    before = mirror.view()
    fake.put("port", port_document("p2", "10.0.0.6"))
    until(lambda: "p2" in mirror.view().ports)
    assert mirror.view().ports["p2"].ip_addresses == ("10.0.0.6",)
    assert "p2" not in before.ports
    assert mirror.view().ports["p1"] is before.ports["p1"]
    fake.delete("port", "p1")
    until(lambda: "p1" not in mirror.view().ports)
    assert mirror.connected


def test_mirror_takes_a_snapshot_after_a_gap(fake, mirror):
    fake.put("port", port_document("p1"))
    until(lambda: "p1" in mirror.view().ports)
    fake.delete("port", "p1")
    fake.forget_changes()
    until(lambda: "p1" not in mirror.view().ports)


def test_malformed_object_does_not_stop_the_mirror(fake, mirror):
    """One port with a DHCP option without a value stopped the mirrors of all agents."""
    fake.put("port", port_document("p1"))
    until(lambda: "p1" in mirror.view().ports)
    good = mirror.view().ports["p1"]
    with capture_logs() as lines:
        fake.put("port", port_document("p1", mac_address=None))
        fake.put("port", port_document("p2", mac_address=None))
        fake.put("port", port_document("p3", "10.0.0.7"))
        until(lambda: "p3" in mirror.view().ports)
        assert mirror.view().ports["p1"] is good
        assert "p2" not in mirror.view().ports
        fake.forget_changes()
        fake.put("network", {"id": "n1", "name": "net", "tenant_id": "t"})
        until(lambda: "n1" in mirror.view().networks)
    assert mirror.view().ports["p1"] is good, "the snapshot replaced the last good version"
    assert sorted(mirror.view().ports) == ["p1", "p3"]
    skipped = [line for line in lines if line["event"] == "object decoding failed"]
    assert [(line["id"], line["reason"]) for line in skipped] == [
        ("p1", "port p1: mac_address is missing"),
        ("p2", "port p2: mac_address is missing"),
    ]
    fake.delete("port", "p1")
    until(lambda: "p1" not in mirror.view().ports)


def test_malformed_object_of_a_list_is_skipped(fake, client):
    fake.put("port", port_document("p1", mac_address=None))
    fake.put("port", port_document("p2"))
    with capture_logs() as lines:
        assert [listed.id for listed in client.list_ports()] == ["p2"]
        assert [listed.id for listed in client.list_ports()] == ["p2"]
    assert [line["id"] for line in lines] == ["p1"], "the log has each object once"


def test_subscriber_receives_each_view_in_spite_of_other_subscribers_errors(fake, mirror):
    views: list[CloudView] = []

    def broken(_view: CloudView) -> None:
        raise RuntimeError("broken subscriber")

    assert mirror.wait_ready(HANG_SECONDS)
    mirror.subscribe(views.append)
    mirror._callbacks.insert(0, broken)
    assert len(views) == 1
    fake.put("network", {"id": "n1", "name": "net", "tenant_id": "t"})
    until(lambda: "n1" in views[-1].networks)
    assert views[-1].networks["n1"].project_id == "t"


def test_view_stays_while_the_connection_is_lost(fake, mirror):
    fake.put("port", port_document("p1"))
    until(lambda: "p1" in mirror.view().ports)
    fake.fail_with(503)
    until(lambda: not mirror.connected)
    assert "p1" in mirror.view().ports
    fake.fail_with(None)
    until(lambda: mirror.connected)


def test_stop_does_not_wait_for_a_long_poll(client):
    mirror = CloudMirror(client, KINDS, poll_seconds=20)
    mirror.start()
    assert mirror.wait_ready(HANG_SECONDS)
    until(lambda: mirror.is_polling)
    mirror.stop(HANG_SECONDS)
    assert mirror.is_polling, "stop waited for the long poll"


def test_revoked_token_is_renewed(fake, client):
    client.snapshot(KINDS)
    fake.revoke_tokens()
    client.snapshot(KINDS)
    assert fake.logins == 2


def test_error_does_not_contain_the_password(fake):
    auth = type(fake.auth)(auth_url=fake.auth.auth_url, username="agent", password="wrong-one", project_name="service")
    session = connect(auth)
    with pytest.raises(ControlApiError) as caught:
        ControlClient(session).snapshot(KINDS)
    assert caught.value.status == 401
    assert "wrong-one" not in str(caught.value)
    session.session.close()


def test_unreachable_control_api_is_an_error():
    with FakeControl() as gone:
        auth = gone.auth
    session = connect(auth)
    with pytest.raises(ControlApiError) as caught:
        ControlClient(session).snapshot(KINDS)
    assert caught.value.status is None
    session.session.close()


def test_cloud_without_watch_is_detected():
    with FakeControl(watch=False) as neutron:
        neutron.put("port", port_document("p1"))
        session = connect(neutron.auth)
        client = ControlClient(session)
        with pytest.raises(NoWatchError):
            client.snapshot(KINDS)
        mirror = CloudMirror(client, KINDS)
        mirror.start()
        until(lambda: mirror.watch_unavailable)
        mirror.stop(5)
        assert [listed.id for listed in client.list_ports(network_id="net-1", fixed_ips="ip_address=10.0.0.5")] == [
            "p1"
        ]
        assert client.list_ports(network_id="net-2") == []
        session.session.close()


def test_required_watch_is_found_when_the_catalog_has_it_again(monkeypatch):
    """The catalog is part of a token, which is valid for an hour."""
    monkeypatch.setattr("openimds.client.mirror._NO_WATCH_PAUSE_SECONDS", 0.05)
    with FakeControl(watch=False) as control:
        session = connect(control.auth)
        mirror = CloudMirror(ControlClient(session), KINDS, requires_watch=True)
        with capture_logs() as logs:
            mirror.start()
            until(lambda: mirror.watch_unavailable)
            control.has_watch = True
            until(lambda: mirror.connected)
        mirror.stop(5)
        session.session.close()
    assert [line["replacement"] for line in logs if line["event"] == "watch not available"] == ["the last view"]


def test_pruned_revision_is_an_error(fake, client):
    fake.forget_changes()
    with pytest.raises(RevisionGoneError):
        client.changes(0, KINDS, 0)


def test_reports_and_heartbeats_have_their_paths_and_bodies(fake, client):
    client.port_provisioned("p1", "dhcp")
    client.port_unplugged("p1")
    client.report_server("vm-1", boot_generation=2, power_state="running")
    client.put_console("vm-1", "x" * 300_000 + "end")
    client.send_heartbeat(
        "openimds-dhcp-agent",
        "node1",
        agent_type="DHCP agent",
        started_at=datetime(2026, 11, 21, 10, tzinfo=UTC),
        configurations={"a": 1},
    )
    lines = str(fake).splitlines()
    assert lines[0] == 'POST /ports/p1/provisioned {"entity": "dhcp"}'
    assert lines[1] == "POST /ports/p1/unplugged"
    assert lines[2] == 'PUT /servers/vm-1/report {"boot_generation": 2, "power_state": "running", "fault": null}'
    assert fake.calls[3].body.endswith(b"end")
    assert len(fake.calls[3].body) == 256 * 1024
    assert "2026-11-21T10:00:00Z" in lines[4]
    assert lines[4].startswith("PUT /agents/openimds-dhcp-agent/node1")


def test_port_is_created_changed_and_deleted(fake, client):
    created = client.create_port({"network_id": "net-1", "device_owner": "network:dhcp"})
    assert client.update_port(created.id, {"name": "x"}).name == "x"
    client.delete_port(created.id)
    client.delete_port(created.id)
    assert client.list_ports(device_owner="network:dhcp") == []


def test_v2_url_is_replaced_by_v3():
    assert with_v3_suffix("http://controller:5000/v2.0") == "http://controller:5000/v3"
    assert with_v3_suffix("http://controller:5000/v2.0/") == "http://controller:5000/v3"
    assert with_v3_suffix("http://controller:5000/v3") == "http://controller:5000/v3"


def test_wait_ready_returns_immediately_without_a_watch():
    with FakeControl(watch=False) as neutron:
        session = connect(neutron.auth)
        mirror = CloudMirror(ControlClient(session), KINDS)
        mirror.start()
        assert not mirror.wait_ready(3600)
        assert mirror.watch_unavailable
        mirror.stop(5)
        session.session.close()


def test_age_grows_while_the_connection_is_lost(fake, mirror):
    assert mirror.wait_ready(5)
    fake.fail_with(503)
    until(lambda: not mirror.connected)
    lost_at = mirror.age_seconds
    until(lambda: mirror.age_seconds > lost_at + 0.5)
    fake.fail_with(None)
    until(lambda: mirror.connected)
    assert mirror.age_seconds < 60


def test_mirror_is_connected_only_after_the_new_view(fake, mirror):
    """A view from before the gap must not count as current."""
    fake.put("port", port_document("p1"))
    until(lambda: "p1" in mirror.view().ports)
    fake.fail_with(503)
    until(lambda: not mirror.connected)
    fake.put("port", port_document("p2", "10.0.0.6"))
    seen: list[bool] = []
    on_success = mirror._on_success

    def note() -> None:
        seen.append("p2" in mirror.view().ports)
        on_success()

    mirror._on_success = note
    fake.fail_with(None)
    until(lambda: mirror.connected)
    assert seen[0]


def test_endless_list_is_an_error(fake, client, monkeypatch):
    monkeypatch.setattr("openimds.client.control_client.MAX_PAGES", 3)
    calls: list[object] = []
    link = [{"rel": "next", "href": "http://neutron/ports?marker=p1"}]

    def request_json(call: object) -> object:
        calls.append(call)
        return {"ports": [port_document("p1")], "ports_links": link}

    monkeypatch.setattr(client._network, "request_json", request_json)
    with pytest.raises(ControlApiError, match="more than 3 pages"):
        client.list_ports()
    assert len(calls) == 3


def test_user_without_admin_role_is_logged_once():
    with FakeControl(watch=False) as neutron:
        for role, count in (("service", 0), ("member", 1)):
            neutron.role = role
            session = connect(neutron.auth)
            client = ControlClient(session)
            with capture_logs() as lines:
                client.warn_if_role_is_missing()
                client.warn_if_role_is_missing()
            assert [line["roles"] for line in lines] == [["member"]] * count
            session.session.close()
