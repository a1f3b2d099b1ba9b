"""The policy of a port's device: text written by a tenant is never ownership (docs/security.md, "Ownership")."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
import sqlalchemy as sa

from openimds.resources.network import BINDING_ATTRIBUTE
from openimds.store.engine import Store, utc_now
from openimds.store.models.compute import Server

NETWORK_OWNERS = (
    "network:dhcp",
    "network:router_interface",
    "network:router_interface_distributed",
    "network:router_gateway",
    "network:ha_router_replicated_interface",
    "network:floatingip",
    "network:",
    "Network:router_interface",
    " network:router_gateway",
    "network\u200b:dhcp",
    "\ufeffnetwork:dhcp",
    "\uff4eetwork:dhcp",
)
SPELLINGS: tuple[Callable[[str], str], ...] = (
    str,
    str.upper,
    lambda text: "{" + text + "}",
    lambda text: f"urn:uuid:{text}",
    lambda text: text.replace("-", ""),
    lambda text: f" {text} ",
    lambda text: f"URN:UUID:{text}",
    lambda text: f"\u200b{text}\ufeff",
    lambda text: text[:9] + "\u200b" + text[9:],
)
NOT_ATTACHED = {"device_id": "", "device_owner": ""}


def new_server(store: Store, project_id: str) -> str:
    """Inserts a server's row. Returns its id."""
    server_id = str(uuid.uuid4())
    now: datetime = utc_now()
    with store.write() as session:
        session.add(
            Server(id=server_id, project_id=project_id, user_id="u", name="vm", hostname="vm", flavor={},
                   created_at=now, updated_at=now)
        )  # fmt: skip
    return server_id


@pytest.fixture
def network(member: Any) -> str:
    made = member.make("network", name="net")["id"]
    member.make("subnet", network_id=made, cidr="10.0.0.0/24")
    return str(made)


@pytest.fixture
def shared(operator: Any) -> str:
    """A network of the operator's project that all projects may use."""
    made = operator.make("network", name="shared", shared=True)["id"]
    operator.make("subnet", network_id=made, cidr="10.1.0.0/24")
    return str(made)


def attachment(operator: Any, port_id: str) -> dict[str, str]:
    shown = operator.get(f"/ports/{port_id}")["port"][BINDING_ATTRIBUTE]
    return {name: shown[name] for name in NOT_ATTACHED}


class TestNetworkOwners:
    @pytest.mark.parametrize("owner", NETWORK_OWNERS)
    def test_members_and_readers_cannot_set_network_owned_devices(
        self, member: Any, reader: Any, stranger: Any, network: str, shared: str, owner: str
    ) -> None:
        plain = {caller.token: caller.make("port", network_id=shared)["id"] for caller in (member, stranger)}
        for caller, on in ((member, network), (member, shared), (stranger, shared), (reader, network)):
            body = {"network_id": on, "device_owner": owner}
            error = caller.post("/ports", {"port": body}, 403)["NeutronError"]
            assert error["type"] in {"PolicyNotAuthorized", "HTTPForbidden"}
            caller.post("/ports", {"ports": [{"network_id": on}, body]}, 403)
            if caller.token in plain:
                caller.put(f"/ports/{plain[caller.token]}", {"port": {"device_owner": owner}}, 403)
        assert member.get(f"/ports?network_id={network}")["ports"] == []

    @pytest.mark.parametrize("owner", NETWORK_OWNERS)
    def test_operators_and_services_can_set_network_owned_devices_without_joining_a_router(
        self, member: Any, operator: Any, agent: Any, network: str, owner: str
    ) -> None:
        router = member.make("router", name="r")["id"]
        for caller in (operator, agent):
            body = {"network_id": network, "device_owner": owner, "device_id": router}
            made = caller.make("port", **body)
            changed = caller.make("port", network_id=network)["id"]
            caller.put(f"/ports/{changed}", {"port": {"device_owner": owner, "device_id": router}})
            assert (made["device_owner"], made["device_id"]) == (owner, router)
            for port_id in (made["id"], changed):
                if owner != "network:dhcp":
                    assert attachment(operator, port_id) == NOT_ATTACHED
        assert member.get(f"/routers/{router}")["router"]["external_gateway_info"] is None
        member.delete(f"/routers/{router}")

    def test_dhcp_port_of_an_agent_is_attached_and_follows_its_changes(
        self, operator: Any, agent: Any, network: str
    ) -> None:
        made = agent.make("port", network_id=network, device_owner="network:dhcp", device_id="dhcp1")["id"]
        assert attachment(operator, made) == {"device_owner": "network:dhcp", "device_id": "dhcp1"}
        agent.put(f"/ports/{made}", {"port": {"device_id": "reserved_dhcp_port"}})
        assert attachment(operator, made)["device_id"] == "reserved_dhcp_port"
        agent.put(f"/ports/{made}", {"port": {"device_owner": "", "device_id": ""}})
        assert attachment(operator, made) == NOT_ATTACHED


class TestDevices:
    @pytest.mark.parametrize("spell", SPELLINGS)
    @pytest.mark.parametrize("kind", ["server", "router"])
    def test_device_of_another_project_is_refused(
        self,
        store: Store,
        member: Any,
        stranger: Any,
        operator: Any,
        shared: str,
        kind: str,
        spell: Callable[[str], str],
    ) -> None:
        victim = new_server(store, "member-project") if kind == "server" else member.make("router", name="r")["id"]
        network = stranger.make("network", name="evil")["id"]
        for on in (network, shared):
            body = {"network_id": on, "device_id": spell(victim), "device_owner": "compute:nova"}
            error = stranger.post("/ports", {"port": body}, 409)["NeutronError"]
            assert error["type"] == "DeviceIDNotOwnedByTenant"
            stranger.post("/ports", {"ports": [{"network_id": on}, body]}, 409)
            port = stranger.make("port", network_id=on)["id"]
            stranger.put(f"/ports/{port}", {"port": {"device_id": spell(victim)}}, 409)
            assert attachment(operator, port) == NOT_ATTACHED

    def test_own_devices_and_free_text_are_stored_and_have_no_effect(
        self, store: Store, member: Any, operator: Any, network: str
    ) -> None:
        own = new_server(store, "member-project")
        router = member.make("router", name="r")["id"]
        for device_id in (own, router, str(uuid.uuid4()), "my device", ""):
            port = member.make("port", network_id=network, device_id=device_id, device_owner="compute:nova")
            assert port["device_id"] == device_id
            assert attachment(operator, port["id"]) == NOT_ATTACHED
        member.delete(f"/routers/{router}")

    def test_operators_port_joins_no_server_of_this_cloud(self, store: Store, operator: Any, network: str) -> None:
        device = {"device_id": new_server(store, "member-project"), "device_owner": "compute:nova"}
        port = operator.make("port", network_id=network, project_id="member-project", **device)
        assert attachment(operator, port["id"]) == NOT_ATTACHED

    def test_operators_port_belongs_to_an_instance_that_another_compute_service_runs(
        self, operator: Any, network: str
    ) -> None:
        device = {"device_id": str(uuid.uuid4()), "device_owner": "compute:nova"}
        port = operator.make("port", network_id=network, **device)
        assert attachment(operator, port["id"]) == device

    def test_change_by_an_operator_does_not_adopt_a_members_text(
        self, member: Any, operator: Any, network: str
    ) -> None:
        label = {"device_id": str(uuid.uuid4()), "device_owner": "compute:nova"}
        port = member.make("port", network_id=network, **label)
        operator.put(f"/ports/{port['id']}", {"port": {"name": "x", "binding:host_id": "node1", **label}})
        assert attachment(operator, port["id"]) == NOT_ATTACHED
        other = label | {"device_id": str(uuid.uuid4())}
        operator.put(f"/ports/{port['id']}", {"port": other})
        assert attachment(operator, port["id"]) == other

    def test_members_see_no_binding(self, member: Any, network: str) -> None:
        assert BINDING_ATTRIBUTE not in member.make("port", network_id=network)

    def test_binding_cannot_be_written(self, member: Any, operator: Any, network: str) -> None:
        value = {"device_id": "x", "device_owner": "compute:nova"}
        for caller in (member, operator):
            caller.post("/ports", {"port": {"network_id": network, BINDING_ATTRIBUTE: value}}, 400)


class TestAttachedPorts:
    def test_router_interface_keeps_its_device(self, member: Any, operator: Any, network: str) -> None:
        router = member.make("router", name="r")["id"]
        subnet = member.get(f"/subnets?network_id={network}")["subnets"][0]["id"]
        port = member.put(f"/routers/{router}/add_router_interface", {"subnet_id": subnet})["port_id"]
        device = {"device_id": router, "device_owner": "network:router_interface"}
        assert attachment(operator, port) == device
        member.put(f"/ports/{port}", {"port": {"name": "leg", **device}})
        changes: tuple[dict[str, Any], ...] = ({"device_id": ""}, {"device_owner": "compute:nova"}, {"fixed_ips": []})
        for change in changes:
            error = member.put(f"/ports/{port}", {"port": change}, 409)["NeutronError"]
            assert error["type"] == "PortInUse"
        assert [p["id"] for p in member.get(f"/ports?device_id={router}")["ports"]] == [port]

    def test_port_of_another_project_cannot_become_a_router_interface(
        self, member: Any, stranger: Any, operator: Any, shared: str
    ) -> None:
        port = member.make("port", network_id=shared)["id"]
        router = stranger.make("router", name="evil")["id"]
        stranger.put(f"/routers/{router}/add_router_interface", {"port_id": port}, 404)
        own = operator.make("router", name="op", project_id="operator-project")["id"]
        operator.put(f"/routers/{own}/add_router_interface", {"port_id": port})

    def test_network_owner_cannot_change_another_projects_port(self, store: Store, member: Any, operator: Any) -> None:
        network = operator.make("network", name="n", project_id="member-project")["id"]
        operator.make("subnet", network_id=network, cidr="10.3.0.0/24", project_id="member-project")
        port = operator.make("port", network_id=network, project_id="stranger-project")["id"]
        assert member.get(f"/ports/{port}")
        for change in ({"name": "mine"}, {"device_id": "x"}, {"allowed_address_pairs": [{"ip_address": "10.3.0.9"}]}):
            member.put(f"/ports/{port}", {"port": change}, 403)
        router = member.make("router", name="r")["id"]
        member.put(f"/routers/{router}/add_router_interface", {"port_id": port}, 403)


def test_forged_rows_have_no_effect(store: Store, member: Any, operator: Any, network: str) -> None:
    """The test writes rows into the database that the API would reject."""
    router = member.make("router", name="r")["id"]
    ports = [member.make("port", network_id=network)["id"] for _ in range(3)]
    owners = ("network:router_interface", "network:router_gateway", "compute:nova")
    with store.engine.begin() as connection:
        for port, owner in zip(ports, owners, strict=True):
            values = {"id": port, "owner": owner, "router": router}
            connection.execute(
                sa.text("UPDATE ports SET device_owner = :owner, device_id = :router WHERE id = :id"), values
            )
    for port in ports:
        assert attachment(operator, port) == NOT_ATTACHED
    outside = operator.make("network", name="outside", **{"router:external": True})["id"]
    operator.make("subnet", network_id=outside, cidr="203.0.113.0/24")
    floating = {"floatingip": {"floating_network_id": outside, "port_id": ports[0]}}
    assert member.post("/floatingips", floating, 404)["NeutronError"]["type"] == "ExternalGatewayForFloatingIPNotFound"
    member.delete(f"/routers/{router}")
