"""The metadata agent with a cloud that has only the REST APIs of Keystone and Neutron, over real HTTP."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.contract.control.stage import SERVICE_PASSWORD, Session, control_api
from tests.programs.metadata_agent.without_watch import Door, door_to
from tests.programs.metadata_api import metadata_stage
from tests.programs.metadata_api.metadata_stage import agent_stage
from tests.waiting import until

from openimds.client.control_client import ControlClient
from openimds.client.session import connect
from openimds.resources.auth import AuthOptions

NEVER_AGAIN = 20
LONG_SECONDS = 3600


@dataclass
class Stage:
    admin: Session
    door: Door
    agent: metadata_stage.Stage
    network: str

    def port(self, instance: str, ip: str) -> str:
        body = {
            "network_id": self.network, "fixed_ips": [{"ip_address": ip}], "device_id": instance,
            "device_owner": "compute:nova",
        }  # fmt: skip
        return str(self.admin.post("/network/v2.0/ports", {"port": body})["port"]["id"])

    def move(self, port: str, ip: str) -> None:
        self.admin.put(f"/network/v2.0/ports/{port}", {"port": {"fixed_ips": [{"ip_address": ip}]}})

    def delete(self, port: str) -> None:
        self.admin.call("DELETE", f"/network/v2.0/ports/{port}")

    def start(self, ttl_seconds: int, password: str = SERVICE_PASSWORD) -> None:
        """The agent, configured with option names of 2014, including `/v2.0`."""
        self.configure(ttl_seconds, password)
        self.agent.start()

    def configure(self, ttl_seconds: int, password: str) -> None:
        self.agent.file.write_text(
            f"""\
[DEFAULT]
state_path = {self.agent.folder}
host = node1
log_format = json
nova_metadata_ip = 127.0.0.1
nova_metadata_port = {self.agent.api.server_address[1]}
metadata_proxy_shared_secret = shared
auth_url = {self.door.url}/v2.0
admin_user = neutron
admin_password = {password}
admin_tenant_name = service
cache_url = memory://?default_ttl={ttl_seconds}
"""
        )

    def instance(self, ip: str) -> str | int:
        """The instance that the agent resolves the address to, or the status if there is none."""
        status, said = self.agent.ask(ip)
        return said.split()[0] if status == 200 else status


@contextmanager
def network_of(admin: Session, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    network: dict[str, Any] = admin.post("/network/v2.0/networks", {"network": {"name": "n"}})["network"]
    subnet = {"network_id": network["id"], "ip_version": 4, "cidr": "10.0.0.0/24"}
    admin.post("/network/v2.0/subnets", {"subnet": subnet})
    monkeypatch.setattr(metadata_stage, "NET", network["id"])
    yield network["id"]


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    (tmp_path / "agent").mkdir()
    with (
        control_api(tmp_path / "control") as control,
        door_to(control.url) as door,
        agent_stage(tmp_path / "agent") as agent,
        network_of(control.login(), monkeypatch) as network,
    ):
        yield Stage(control.login(), door, agent, network)


def test_moved_address_belongs_to_its_new_owner(stage: Stage) -> None:
    first = stage.port("vm-1", "10.0.0.5")
    stage.start(ttl_seconds=1)
    assert stage.instance("10.0.0.5") == "vm-1"
    stage.move(first, "10.0.0.6")
    stage.port("vm-2", "10.0.0.5")
    until(lambda: stage.instance("10.0.0.5") == "vm-2")
    assert {stage.instance("10.0.0.5") for _ in range(NEVER_AGAIN)} == {"vm-2"}
    assert stage.instance("10.0.0.6") == "vm-1"
    assert stage.agent.events("watch not available"), "the missing watch is logged"
    assert SERVICE_PASSWORD not in stage.agent.log
    alarms = [event for event in stage.agent.events("") if event["level"] in ("error", "critical")]
    assert alarms == []
    assert not stage.agent.events("heartbeat failed")


def test_address_of_a_deleted_instance_belongs_to_the_next_owner(stage: Stage) -> None:
    """The result is correct even while the cached lookup is valid, because the metadata API no longer has the instance."""
    port = stage.port("vm-1", "10.0.0.5")
    stage.start(ttl_seconds=LONG_SECONDS)
    assert stage.instance("10.0.0.5") == "vm-1"
    before = stage.door.lookups
    assert {stage.instance("10.0.0.5") for _ in range(NEVER_AGAIN)} == {"vm-1"}
    assert stage.door.lookups == before, "the result is cached"
    stage.delete(port)
    stage.agent.api.gone = {"vm-1"}
    stage.port("vm-2", "10.0.0.5")
    assert stage.instance("10.0.0.5") == "vm-2"


def test_expired_token_is_renewed_and_a_failing_neutron_is_503(stage: Stage) -> None:
    stage.port("vm-1", "10.0.0.5")
    stage.port("vm-2", "10.0.0.6")
    stage.start(ttl_seconds=LONG_SECONDS)
    assert stage.instance("10.0.0.5") == "vm-1"
    stage.door.end_tokens()
    assert stage.instance("10.0.0.6") == "vm-2", "a new token is fetched, and the query is repeated"
    stage.door.neutron_status = 503
    assert stage.instance("10.0.0.5") == "vm-1", "a cached result is used"
    assert stage.instance("10.0.0.7") == 503, "a client that cannot be looked up is not rejected"
    stage.door.neutron_status = None
    assert stage.instance("10.0.0.7") == 404


def test_pages_of_neutron_are_read_completely(stage: Stage) -> None:
    """With `pagination_max_limit`, the agent reads the second page too."""
    auth = AuthOptions(auth_url=stage.door.url, username="neutron", password=SERVICE_PASSWORD, project_name="service")
    made = {stage.port(f"vm-{number}", f"10.0.0.{number}") for number in range(10, 15)}
    stage.door.page_size = 2
    session = connect(auth)
    found = ControlClient(session).list_ports(network_id=[stage.network], device_owner="compute:nova")
    session.session.close()
    assert {port.id for port in found} == made
    assert len(found) == len(made)
    assert stage.door.lookups >= 3


def test_wrong_password_is_tried_once_and_clients_are_not_held(stage: Stage) -> None:
    """Mirror, heartbeat and each held request logged in about once a second, which locked the account in Keystone."""
    stage.port("vm-1", "10.0.0.5")
    stage.start(ttl_seconds=1, password="wrong")
    for number in range(5, 15):
        head, _body = stage.agent.response(f"10.0.0.{number}")
        assert head.startswith("HTTP/1.1 503")
        assert "retry-after: 10" in head.lower()
    assert stage.door.refused_logins == 1
    (event,) = stage.agent.events("login refused")
    assert event["section"] == "keystone_authtoken"
    assert event["files"] == [str(stage.agent.file)]
    assert (event["user"], event["project"]) == ("neutron", "service")


def test_corrected_password_takes_effect_without_a_restart(stage: Stage) -> None:
    stage.port("vm-1", "10.0.0.5")
    stage.start(ttl_seconds=1, password="wrong")
    assert stage.instance("10.0.0.5") == 503
    stage.configure(1, SERVICE_PASSWORD)
    until(lambda: stage.instance("10.0.0.5") == "vm-1", "the changed file is read")
    assert stage.door.refused_logins == 1
    assert SERVICE_PASSWORD not in stage.agent.log


def test_signal_repeats_a_refused_login(stage: Stage) -> None:
    stage.start(ttl_seconds=1, password="wrong")
    until(lambda: stage.door.refused_logins == 1)
    assert stage.agent.process is not None
    stage.agent.process.send_signal(signal.SIGHUP)
    until(lambda: stage.door.refused_logins == 2, "the signal ends the wait")
