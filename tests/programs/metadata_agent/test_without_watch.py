"""The metadata agent with a cloud that has only the REST APIs of Keystone and Neutron, over real HTTP."""

from __future__ import annotations

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

    def start(self, believed_seconds: int) -> None:
        """The agent, configured with option names of 2014, including `/v2.0`."""
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
admin_password = {SERVICE_PASSWORD}
admin_tenant_name = service
cache_url = memory://?default_ttl={believed_seconds}
"""
        )
        self.agent.start()

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
    stage.start(believed_seconds=1)
    assert stage.instance("10.0.0.5") == "vm-1"
    stage.move(first, "10.0.0.6")
    stage.port("vm-2", "10.0.0.5")
    until(lambda: stage.instance("10.0.0.5") == "vm-2")
    assert {stage.instance("10.0.0.5") for _ in range(NEVER_AGAIN)} == {"vm-2"}
    assert stage.instance("10.0.0.6") == "vm-1"
    assert stage.agent.events("watch not available"), "the missing watch is logged"
    assert SERVICE_PASSWORD not in stage.agent.log


def test_address_of_a_deleted_instance_belongs_to_the_next_owner(stage: Stage) -> None:
    """The result is correct even while the cached lookup is valid, because the metadata API no longer has the instance."""
    port = stage.port("vm-1", "10.0.0.5")
    stage.start(believed_seconds=LONG_SECONDS)
    assert stage.instance("10.0.0.5") == "vm-1"
    looked = stage.door.lookups
    assert {stage.instance("10.0.0.5") for _ in range(NEVER_AGAIN)} == {"vm-1"}
    assert stage.door.lookups == looked, "a find is believed"
    stage.delete(port)
    stage.agent.api.gone = {"vm-1"}
    stage.port("vm-2", "10.0.0.5")
    assert stage.instance("10.0.0.5") == "vm-2"


def test_expired_token_is_renewed_and_a_failing_neutron_is_503(stage: Stage) -> None:
    stage.port("vm-1", "10.0.0.5")
    stage.port("vm-2", "10.0.0.6")
    stage.start(believed_seconds=LONG_SECONDS)
    assert stage.instance("10.0.0.5") == "vm-1"
    stage.door.end_tokens()
    assert stage.instance("10.0.0.6") == "vm-2", "a new token is fetched, and the question asked again"
    stage.door.neutron_status = 503
    assert stage.instance("10.0.0.5") == "vm-1", "what was found a moment ago is served"
    assert stage.instance("10.0.0.7") == 503, "not yet is never no"
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
