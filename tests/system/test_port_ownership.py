"""Ports that claim another project's router or server by their device_owner and device_id.

The victim and the attacker are members of one project each. The API refuses the attacker's claims. The tests then forge
the rows of her own ports in the database, and neither the agents nor the metadata API follow them. The attacker's network
has a more specific part of the victim's range, and her guest has the victim's address and MAC.
"""

from __future__ import annotations

import base64
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from tests.system.api_client import ApiClient, Network
from tests.system.cloud import Cloud, run, shown
from tests.system.raw_guest import user_data
from tests.waiting import HANG_SECONDS, until

from openimds.resources.network import DEVICE_ID_CHARS

pytestmark = [pytest.mark.usefixtures("metadata_proxy"), pytest.mark.timeout(300)]

METADATA = "http://169.254.169.254"
USER_DATA, META_DATA = "/latest/user-data", "/openstack/latest/meta_data.json"
DOCUMENTS = (META_DATA, "/openstack/latest/network_data.json", "/latest/meta-data/security-groups")
VICTIM_ADDRESS, ATTACKER_GATEWAY, FORGED_ADDRESS = "10.20.0.5", "10.20.0.1", "10.20.0.62"
ROUTER_OWNERS = ("network:router_interface", "network:router_interface_distributed", "network:router_gateway")
UNREACHED_SECONDS = 3
"""The timeout of a request through an address that no device may have."""


@dataclass(frozen=True, slots=True)
class Stage:
    cloud: Cloud
    admin: ApiClient
    victim: ApiClient
    attacker: ApiClient
    network: Network
    side: Network
    """Another network of the victim's. The router has no interface on it."""
    router: str
    server: str
    theirs: Network
    """The attacker's network, with the more specific subnet."""
    elsewhere: str
    """Another subnet of the attacker's network."""
    group: str
    """A security group of the attacker's."""
    foe: str
    foe_port: str

    def ask(self, server: str, path: str, seconds: float = 30) -> str:
        """The answer's body and status."""
        argv = ("curl", "-s", "-m", f"{seconds:g}", "-w", " %{http_code}", METADATA + path)
        return self.cloud.inside(f"qvm-{server}", *argv, check=False)

    def ask_as_foe(self, router_address: str) -> str:
        """The answer to the attacker's guest through this router."""
        namespace = f"{self.cloud.prefix}qvm-{self.foe}"
        run(["ip", "-n", namespace, "route", "replace", "169.254.169.254", "via", router_address, "dev", "eth0"])
        return self.ask(self.foe, USER_DATA, UNREACHED_SECONDS)

    def documents(self) -> list[str]:
        """The victim's documents without `random_seed`, which differs in each answer."""
        return [re.sub(r'"random_seed": "[^"]*"', "", self.ask(self.server, path)) for path in DOCUMENTS]

    def shown_nics(self) -> list[Any]:
        """The NICs of the victim's server in the compute API."""
        server = self.victim.get("compute", f"/servers/{self.server}")["server"]
        return [server["addresses"], self.victim.get("compute", f"/servers/{self.server}/os-interface")]

    def router_devices(self) -> set[str]:
        namespace = f"{self.cloud.prefix}qrouter-{self.router}"
        return {line.split(":")[1].split("@")[0].strip() for line in shown("ip", "-n", namespace, "-o", "link")}

    def status(self, method: str, path: str, port: dict[str, Any]) -> int:
        """The status of the answer to the attacker."""
        return self.attacker.request("network", method, path, {"port": port}).status_code

    @contextmanager
    def plain_port(self, **port: Any) -> Iterator[str]:
        """The id of a new port of the attacker's."""
        made = self.attacker.create("network", "/v2.0/ports", port={"network_id": self.theirs.id, **port})["id"]
        try:
            yield made
        finally:
            self.attacker.delete("network", f"/v2.0/ports/{made}")

    @contextmanager
    def forged(self, device_owner: str, device_id: str, **port: Any) -> Iterator[str]:
        """As `plain_port`, with a forged row. The port's new name makes the control API send the row to the agents."""
        with self.plain_port(**port) as port_id:
            with closing(sqlite3.connect(self.cloud.state_dir / "openimds.sqlite", isolation_level=None)) as store:
                store.execute(f"PRAGMA busy_timeout = {HANG_SECONDS * 1000:.0f}")
                row = (device_owner, device_id, port_id)
                done = store.execute("UPDATE ports SET device_owner = ?, device_id = ? WHERE id = ?", row)
                assert done.rowcount == 1
            self.attacker.put("network", f"/v2.0/ports/{port_id}", {"port": {"name": "forged"}})
            yield port_id

    @contextmanager
    def later_interface(self) -> Iterator[str]:
        """The device of a new router interface of the victim's. The port is ACTIVE, so the L3 agent has handled all
        earlier changes.
        """
        subnet = {"subnet_id": self.side.subnet_id}
        where = f"/v2.0/routers/{self.router}"
        port = self.victim.put("network", f"{where}/add_router_interface", subnet)["port_id"]
        try:
            until(lambda: self._is_active(port), "the later router interface is ACTIVE")
            yield f"qr-{port[:DEVICE_ID_CHARS]}"
        finally:
            self.victim.put("network", f"{where}/remove_router_interface", subnet)

    def _is_active(self, port_id: str) -> bool:
        return bool(self.victim.get("network", f"/v2.0/ports/{port_id}")["port"]["status"] == "ACTIVE")


@pytest.fixture(scope="module")
def stage(cloud: Cloud) -> Stage:
    admin = ApiClient(cloud)
    victim, attacker = admin.member("victim"), admin.member("attacker")
    network, side = victim.network("net", "10.20.0.0/24"), victim.network("side", "10.30.0.0/24")
    router = victim.router("router", network)
    nics = [{"uuid": network.id, "fixed_ip": VICTIM_ADDRESS}]
    server = victim.server("victim", network, networks=nics, user_data=encoded("victim"))
    (port,) = victim.get("network", f"/v2.0/ports?device_id={server}")["ports"]

    evil = attacker.create("network", "/v2.0/networks", network={"name": "evil"})["id"]
    theirs = Network(evil, attacker.subnet(evil, ip_version=4, cidr="10.20.0.0/26", enable_dhcp=False))
    elsewhere = attacker.subnet(evil, ip_version=4, cidr="10.21.0.0/24", enable_dhcp=False)
    attacker.router("own", theirs)
    group = attacker.create("network", "/v2.0/security-groups", security_group={"name": "evil"})["id"]
    twin = {
        "network_id": evil,
        "mac_address": port["mac_address"],
        "fixed_ips": [{"subnet_id": theirs.subnet_id, "ip_address": VICTIM_ADDRESS}],
        "port_security_enabled": False,
    }
    foe_port = attacker.create("network", "/v2.0/ports", port=twin)["id"]
    foe = attacker.server("foe", theirs, networks=[{"port": foe_port}], user_data=encoded("foe"))
    cloud.wait_booted(server, "victim")
    cloud.wait_booted(foe, "foe")
    return Stage(
        cloud=cloud, admin=admin, victim=victim, attacker=attacker, network=network, side=side, router=router,
        server=server, theirs=theirs, elsewhere=elsewhere, group=group, foe=foe, foe_port=foe_port,
    )  # fmt: skip


def encoded(name: str) -> str:
    return base64.b64encode(user_data(name)).decode()


def canary(name: str) -> str:
    """The answer to a guest that reads its own user data."""
    return f"{user_data(name).decode()} 200"


def spellings(device_id: str) -> tuple[str, ...]:
    return device_id, device_id.upper(), "{" + device_id + "}"


@pytest.mark.parametrize("owner", [*ROUTER_OWNERS, "network:dhcp"])
def test_member_cannot_make_a_port_of_the_network_service(stage: Stage, owner: str) -> None:
    with stage.plain_port() as port_id:
        for device_id in spellings(stage.router):
            device = {"device_owner": owner, "device_id": device_id}
            assert stage.status("POST", "/v2.0/ports", {"network_id": stage.theirs.id, **device}) == 403
            assert stage.status("PUT", f"/v2.0/ports/{port_id}", device) == 403


@pytest.mark.parametrize("owner", ["", "compute:nova"])
@pytest.mark.parametrize("kind", ["router", "server"])
def test_port_cannot_name_a_device_of_another_project(stage: Stage, kind: str, owner: str) -> None:
    with stage.plain_port() as port_id:
        for device_id in spellings(stage.router if kind == "router" else stage.server):
            device = {"device_owner": owner, "device_id": device_id}
            assert stage.status("POST", "/v2.0/ports", {"network_id": stage.theirs.id, **device}) == 409
            assert stage.status("PUT", f"/v2.0/ports/{port_id}", device) == 409


def test_forged_router_interface_is_not_plugged_and_reads_no_data(stage: Stage) -> None:
    until(lambda: stage.ask(stage.server, USER_DATA) == canary("victim"), "the victim is served")
    devices = stage.router_devices()
    interface, distributed, gateway = ROUTER_OWNERS
    fixed_ips = [{"subnet_id": stage.theirs.subnet_id, "ip_address": FORGED_ADDRESS}]
    beside = [{"subnet_id": stage.elsewhere}]
    with (
        stage.forged(distributed, stage.router, fixed_ips=beside),
        stage.forged(gateway, stage.router, fixed_ips=beside),
        stage.forged(interface, stage.router, fixed_ips=fixed_ips),
        stage.later_interface() as later,
    ):
        assert stage.router_devices() == {*devices, later}
        until(lambda: stage.ask_as_foe(ATTACKER_GATEWAY) == canary("foe"), "the attacker's own router serves her guest")
        assert_only_own_data(stage)
        try:
            # Her guest keeps the victim's address. Only the victim's port has it in the control API now.
            stage.attacker.set_addresses(stage.foe_port, stage.elsewhere, ["10.21.0.5"])
            until(lambda: stage.ask_as_foe(ATTACKER_GATEWAY).endswith(" 404"), "the metadata agent knows the change")
            assert_only_own_data(stage)
        finally:
            stage.attacker.set_addresses(stage.foe_port, stage.theirs.subnet_id, [VICTIM_ADDRESS])
    until(lambda: stage.router_devices() == devices, "the later interface is removed")


def assert_only_own_data(stage: Stage) -> None:
    assert stage.ask(stage.server, USER_DATA) == canary("victim")
    assert stage.ask_as_foe(FORGED_ADDRESS) == " 000"
    assert "canary of victim" not in stage.ask_as_foe(ATTACKER_GATEWAY)


def test_forged_nic_is_not_plugged_and_changes_no_document(stage: Stage, metadata_proxy: str) -> None:
    nics, documents = stage.shown_nics(), stage.documents()
    assert all(document.endswith(" 200") for document in documents)
    with stage.forged("compute:nova", stage.server, security_groups=[stage.group]) as forged:
        # A later change of the same server: the metadata API and the metadata agent have read the forged row.
        stage.victim.set_properties(stage.server, later=metadata_proxy)
        until(
            lambda: f'"later": "{metadata_proxy}"' in stage.ask(stage.server, META_DATA), "the property is in meta_data"
        )
        stage.victim.unset_property(stage.server, "later")
        until(lambda: stage.documents()[0] == documents[0], "the property is removed")
        assert stage.documents() == documents

        # A later server: the compute agent and the DHCP agent have handled all earlier changes.
        name = f"later-{metadata_proxy}"
        server = stage.victim.server(name, stage.network, user_data=encoded(name))
        stage.cloud.wait_booted(server, name)
        assert stage.ask(server, USER_DATA) == canary(name)
        assert not [line for line in shown("ip", "-o", "link") if f"tap{forged[:DEVICE_ID_CHARS]}" in line]
        assert stage.shown_nics() == nics
        assert stage.documents() == documents
    query = f"/v2.0/ports?network_id={stage.network.id}&device_owner=network:dhcp"
    assert [port["status"] for port in stage.admin.get("network", query)["ports"]] == ["ACTIVE"]
