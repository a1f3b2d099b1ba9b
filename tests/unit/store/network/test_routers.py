"""Routers, their interfaces and gateways; floating IPs."""

from __future__ import annotations

from typing import Any

import pytest
from tests.callers import network_caller

from openimds.resources.errors import BadRequest, Conflict, Forbidden, NotFound
from openimds.resources.query import ListQuery


def attach(cloud: Any, router: dict[str, Any], **which: str) -> dict[str, Any]:
    answer: dict[str, Any] = cloud.network.add_router_interface(cloud.caller, router["id"], which)
    return answer


def detach(cloud: Any, router: dict[str, Any], **which: str) -> dict[str, Any]:
    answer: dict[str, Any] = cloud.network.remove_router_interface(cloud.caller, router["id"], which)
    return answer


class TestRoutersOfOthersOnASharedNetwork:
    """A member attaches its own router to another project's shared network by a port of its own."""

    @pytest.fixture
    def shared(self, operator: Any) -> dict[str, Any]:
        network = operator.make("network", name="shared", shared=True, project_id="owner")
        operator.make("subnet", network_id=network["id"], cidr="10.0.0.0/24", project_id="owner")
        return dict(network)

    def test_extra_route_cannot_divert_addresses_of_the_network(self, cloud: Any, shared: dict[str, Any]) -> None:
        router = cloud.make("router", name="r")
        _, subnet = cloud.net("10.1.0.0/24")
        attach(cloud, router, subnet_id=subnet["id"])
        leg = cloud.make("port", network_id=shared["id"])
        attach(cloud, router, port_id=leg["id"])
        for destination in ("10.0.0.7/32", "10.0.0.0/24"):
            with pytest.raises(BadRequest, match="belongs to a subnet of another project"):
                cloud.change("router", router["id"], routes=[{"destination": destination, "nexthop": "10.1.0.9"}])
        cloud.change("router", router["id"], routes=[{"destination": "10.0.0.0/8", "nexthop": "10.1.0.9"}])

    def test_interface_cannot_come_after_such_a_route(self, cloud: Any, shared: dict[str, Any]) -> None:
        router = cloud.make("router", name="r")
        _, subnet = cloud.net("10.1.0.0/24")
        attach(cloud, router, subnet_id=subnet["id"])
        cloud.change("router", router["id"], routes=[{"destination": "10.0.0.7/32", "nexthop": "10.1.0.9"}])
        leg = cloud.make("port", network_id=shared["id"])
        with pytest.raises(BadRequest, match="belongs to a subnet of another project"):
            attach(cloud, router, port_id=leg["id"])

    def test_gateway_cannot_come_after_such_a_route(self, cloud: Any) -> None:
        """The route was refused after the gateway, and accepted before it."""
        public, _ = cloud.outside("203.0.113.0/24")
        router = cloud.make("router", name="r")
        _, subnet = cloud.net("10.1.0.0/24")
        attach(cloud, router, subnet_id=subnet["id"])
        gateway = {"network_id": public["id"]}
        cloud.change("router", router["id"], routes=[{"destination": "203.0.113.0/25", "nexthop": "10.1.0.9"}])
        with pytest.raises(BadRequest, match="belongs to a subnet of another project"):
            cloud.change("router", router["id"], external_gateway_info=gateway)
        assert cloud.show("router", router["id"])["external_gateway_info"] is None
        changed = cloud.change("router", router["id"], external_gateway_info=gateway, routes=[])
        assert changed["external_gateway_info"]["network_id"] == public["id"]

    def test_floating_ip_of_another_project_does_not_pass_it(
        self, cloud: Any, stranger: Any, shared: dict[str, Any]
    ) -> None:
        outside, _ = cloud.outside()
        router = cloud.make("router", name="r", external_gateway_info={"network_id": outside["id"]})
        attach(cloud, router, port_id=cloud.make("port", network_id=shared["id"])["id"])
        victim = stranger.make("port", network_id=shared["id"])
        with pytest.raises(NotFound, match="not reachable from subnet"):
            stranger.make("floatingip", floating_network_id=outside["id"], port_id=victim["id"])
        own = cloud.make("port", network_id=shared["id"])
        floating = cloud.make("floatingip", floating_network_id=outside["id"], port_id=own["id"])
        assert floating["router_id"] == router["id"]


class TestInterfaces:
    def test_interface_by_subnet_gets_the_gateway_address(self, cloud: Any) -> None:
        network, subnet = cloud.net("192.168.40.0/24")
        router = cloud.make("router", name="r1")
        answer = attach(cloud, router, subnet_id=subnet["id"])
        assert answer["subnet_ids"] == [subnet["id"]]
        port = cloud.show("port", answer["port_id"])
        assert port["fixed_ips"] == [{"subnet_id": subnet["id"], "ip_address": "192.168.40.1"}]
        assert (port["device_owner"], port["device_id"]) == ("network:router_interface", router["id"])
        assert port["network_id"] == network["id"]
        assert cloud.show("router", router["id"])["revision_number"] > router["revision_number"]

    def test_interface_by_port_attaches_the_port(self, cloud: Any) -> None:
        network, _ = cloud.net("10.0.0.0/24")
        router = cloud.make("router", name="r1")
        port = cloud.make("port", network_id=network["id"], fixed_ips=[{"ip_address": "10.0.0.9"}])
        assert attach(cloud, router, port_id=port["id"])["port_id"] == port["id"]
        with pytest.raises(Conflict, match="already has an attached device"):
            attach(cloud, cloud.make("router", name="r2"), port_id=port["id"])
        with pytest.raises(Conflict, match="cannot be deleted directly"):
            cloud.remove("port", port["id"])
        detach(cloud, router, port_id=port["id"])
        with pytest.raises(NotFound):
            cloud.show("port", port["id"])

    def test_overlapping_subnet_is_a_conflict(self, cloud: Any) -> None:
        router = cloud.make("router", name="r1")
        _, one = cloud.net("10.0.0.0/24")
        _, other = cloud.net("10.0.0.128/25")
        attach(cloud, router, subnet_id=one["id"])
        for subnet in (one, other):
            with pytest.raises(Conflict, match="overlaps with cidr"):
                attach(cloud, router, subnet_id=subnet["id"])

    def test_interface_without_gateway_or_address_is_refused(self, cloud: Any, stranger: Any) -> None:
        router = cloud.make("router", name="r1")
        network, subnet = cloud.net("10.0.0.0/24", gateway_ip=None)
        bare = cloud.make("port", network_id=network["id"], fixed_ips=[])
        _, foreign = stranger.net("10.5.0.0/24")
        with pytest.raises(BadRequest, match="must have a gateway IP"):
            attach(cloud, router, subnet_id=subnet["id"])
        with pytest.raises(BadRequest, match="at least one fixed IP"):
            attach(cloud, router, port_id=bare["id"])
        with pytest.raises(BadRequest, match="Either subnet_id or port_id"):
            attach(cloud, router)
        with pytest.raises(NotFound, match="Subnet"):
            attach(cloud, router, subnet_id=foreign["id"])
        with pytest.raises(NotFound, match="Router"):
            attach(stranger, router, subnet_id=foreign["id"])

    def test_interface_by_subnet_needs_a_free_gateway_address(self, cloud: Any) -> None:
        network, subnet = cloud.net("10.0.0.0/24")
        cloud.make("port", network_id=network["id"], fixed_ips=[{"ip_address": "10.0.0.1"}])
        with pytest.raises(Conflict, match=r"10\.0\.0\.1 already allocated"):
            attach(cloud, cloud.make("router", name="r"), subnet_id=subnet["id"])

    def test_resources_of_an_interface_cannot_be_deleted(self, cloud: Any) -> None:
        network, subnet = cloud.net("10.0.0.0/24")
        router = cloud.make("router", name="r1")
        attach(cloud, router, subnet_id=subnet["id"])
        for kind, thing in (("router", router), ("network", network), ("subnet", subnet)):
            with pytest.raises(Conflict):
                cloud.remove(kind, thing["id"])
        with pytest.raises(NotFound, match="no interface on subnet"):
            detach(cloud, cloud.make("router", name="r2"), subnet_id=subnet["id"])
        detach(cloud, router, subnet_id=subnet["id"])
        for kind, thing in (("router", router), ("network", network)):
            cloud.remove(kind, thing["id"])


class TestGateway:
    def test_gateway_is_set_and_cleared(self, cloud: Any, operator: Any) -> None:
        public, outer = cloud.outside()
        router = cloud.make("router", name="r1", external_gateway_info={"network_id": public["id"]})
        info = router["external_gateway_info"]
        assert info == {
            "network_id": public["id"],
            "enable_snat": True,
            "external_fixed_ips": [{"subnet_id": outer["id"], "ip_address": "203.0.113.2"}],
        }
        ports = operator.network.list("port", operator.caller, _by(device_id=router["id"])).items
        assert [(p["device_owner"], p["project_id"]) for p in ports] == [("network:router_gateway", "")]
        assert cloud.names("port") == []  # the outside is not the project's to see
        cloud.change("router", router["id"], external_gateway_info=None)
        assert cloud.show("router", router["id"])["external_gateway_info"] is None
        assert operator.network.list("port", operator.caller, _by(device_id=router["id"])).items == ()

    def test_only_administrators_set_the_gateway_address_and_snat(self, cloud: Any, operator: Any) -> None:
        public, outer = cloud.outside()
        router = cloud.make("router", name="r1")
        wanted = {
            "network_id": public["id"],
            "enable_snat": False,
            "external_fixed_ips": [{"subnet_id": outer["id"], "ip_address": "203.0.113.77"}],
        }
        with pytest.raises(Forbidden, match="only an administrator"):
            cloud.change("router", router["id"], external_gateway_info=wanted)
        assert operator.change("router", router["id"], external_gateway_info=wanted)["external_gateway_info"] == wanted
        again = cloud.change("router", router["id"], external_gateway_info={"network_id": public["id"]})
        assert again["external_gateway_info"] == wanted

    def test_gateway_needs_an_external_network_with_a_subnet(self, cloud: Any, operator: Any) -> None:
        network, _ = cloud.net()
        router = cloud.make("router", name="r1")
        with pytest.raises(BadRequest, match="is not an external network"):
            cloud.change("router", router["id"], external_gateway_info={"network_id": network["id"]})
        empty = operator.make("network", name="e", router__external=True, project_id="o")
        with pytest.raises(BadRequest, match="has no subnet"):
            cloud.change("router", router["id"], external_gateway_info={"network_id": empty["id"]})

    def test_gateway_on_an_exhausted_network_is_a_conflict(self, cloud: Any) -> None:
        public, _ = cloud.outside("203.0.113.0/30")
        cloud.make("router", name="r1", external_gateway_info={"network_id": public["id"]})
        with pytest.raises(Conflict, match="No more IP addresses"):
            cloud.make("router", name="r2", external_gateway_info={"network_id": public["id"]})
        assert cloud.names("router") == ["r1"]

    def test_external_network_in_use_stays_external(self, cloud: Any, operator: Any) -> None:
        public, _ = cloud.outside()
        cloud.make("router", name="r1", external_gateway_info={"network_id": public["id"]})
        with pytest.raises(Conflict, match="cannot be updated to be made non-external"):
            operator.change("network", public["id"], router__external=False)
        with pytest.raises(Conflict, match="still in use"):
            operator.remove("network", public["id"])


class TestRoutes:
    def test_next_hop_must_be_connected_and_not_the_router(self, cloud: Any) -> None:
        _, subnet = cloud.net("10.0.0.0/24")
        router = cloud.make("router", name="r1")
        route = {"destination": "10.9.0.0/16", "nexthop": "10.0.0.9"}
        with pytest.raises(BadRequest, match="not connected with router"):
            cloud.change("router", router["id"], routes=[route])
        attach(cloud, router, subnet_id=subnet["id"])
        assert cloud.change("router", router["id"], routes=[route])["routes"] == [route]
        with pytest.raises(BadRequest, match="used by router"):
            cloud.change("router", router["id"], routes=[{**route, "nexthop": "10.0.0.1"}])
        with pytest.raises(Conflict, match="required by one or more routes"):
            detach(cloud, router, subnet_id=subnet["id"])

    @pytest.mark.parametrize("destination", ["::ffff:10.98.0.3/128", "fd98::/64"])
    def test_destination_of_another_ip_version_than_the_next_hop_is_refused(self, cloud: Any, destination: str) -> None:
        """The L3 agent failed to set such a route in every pass."""
        _, subnet = cloud.net("10.0.0.0/24")
        router = cloud.make("router", name="r1")
        attach(cloud, router, subnet_id=subnet["id"])
        with pytest.raises(BadRequest, match="different IP versions"):
            cloud.change("router", router["id"], routes=[{"destination": destination, "nexthop": "10.0.0.3"}])

    def test_one_destination_may_have_two_next_hops(self, cloud: Any) -> None:
        _, subnet = cloud.net("10.0.0.0/24")
        router = cloud.make("router", name="r1")
        attach(cloud, router, subnet_id=subnet["id"])
        routes = [{"destination": "10.9.0.0/16", "nexthop": f"10.0.0.{last}"} for last in (8, 9)]
        assert cloud.change("router", router["id"], routes=routes)["routes"] == routes

    def test_routes_are_added_and_removed_one_by_one(self, cloud: Any) -> None:
        _, subnet = cloud.net("10.0.0.0/24")
        router = cloud.make("router", name="r1")
        attach(cloud, router, subnet_id=subnet["id"])
        one = {"destination": "10.8.0.0/16", "nexthop": "10.0.0.8"}
        two = {"destination": "10.9.0.0/16", "nexthop": "10.0.0.9"}
        for change in ({"add": [one]}, {"add": [one, two]}, {"remove": [one]}):
            routes = cloud.network.change_routes(cloud.caller, router["id"], change)["routes"]
        assert routes == [two]


class TestFloatingIPs:
    @pytest.fixture
    def stage(self, cloud: Any) -> dict[str, Any]:
        """The port of an instance behind a router with a gateway."""
        public, _ = cloud.outside()
        network, subnet = cloud.net("10.0.0.0/24")
        router = cloud.make("router", name="r1", external_gateway_info={"network_id": public["id"]})
        attach(cloud, router, subnet_id=subnet["id"])
        port = cloud.make("port", network_id=network["id"], name="vm")
        return {"public": public, "network": network, "subnet": subnet, "router": router, "port": port}

    def test_floating_ip_is_associated_disassociated_and_deleted(
        self, cloud: Any, operator: Any, stage: dict[str, Any]
    ) -> None:
        floating = cloud.make("floatingip", floating_network_id=stage["public"]["id"])
        assert (floating["status"], floating["port_id"], floating["router_id"]) == ("DOWN", None, None)
        led = cloud.change("floatingip", floating["id"], port_id=stage["port"]["id"])
        assert (led["status"], led["fixed_ip_address"], led["router_id"]) == (
            "ACTIVE",
            "10.0.0.2",
            stage["router"]["id"],
        )
        assert led["port_details"]["name"] == "vm"
        freed = cloud.change("floatingip", floating["id"], port_id=None)
        assert (freed["fixed_ip_address"], freed["router_id"], freed["port_details"]) == (None, None, None)
        cloud.remove("floatingip", floating["id"])
        owners = {p["device_owner"] for p in operator.network.list("port", operator.caller, _by()).items}
        assert "network:floatingip" not in owners

    def test_floating_ip_is_created_with_its_port(self, cloud: Any, stage: dict[str, Any]) -> None:
        wanted = {"floating_network_id": stage["public"]["id"], "port_id": stage["port"]["id"]}
        assert cloud.make("floatingip", **wanted)["fixed_ip_address"] == "10.0.0.2"
        with pytest.raises(Conflict, match="already has a floating IP"):
            cloud.make("floatingip", **wanted)

    def test_floating_ip_needs_a_router_between_the_networks(self, cloud: Any, stage: dict[str, Any]) -> None:
        network, _ = cloud.net("10.7.0.0/24")
        port = cloud.make("port", network_id=network["id"])
        with pytest.raises(NotFound, match="is not reachable from subnet") as caught:
            cloud.make("floatingip", floating_network_id=stage["public"]["id"], port_id=port["id"])
        assert caught.value.kind == "ExternalGatewayForFloatingIPNotFound"
        assert cloud.network.list("floatingip", cloud.caller, _by()).items == ()

    def test_interface_and_gateway_of_a_floating_ip_cannot_be_removed(self, cloud: Any, stage: dict[str, Any]) -> None:
        cloud.make("floatingip", floating_network_id=stage["public"]["id"], port_id=stage["port"]["id"])
        with pytest.raises(Conflict, match="required by one or more floating IPs"):
            detach(cloud, stage["router"], subnet_id=stage["subnet"]["id"])
        with pytest.raises(Conflict, match="required by one or more floating IPs"):
            cloud.change("router", stage["router"]["id"], external_gateway_info=None)

    def test_floating_ip_stays_without_its_port_or_address(self, cloud: Any, stage: dict[str, Any]) -> None:
        floating = cloud.make("floatingip", floating_network_id=stage["public"]["id"], port_id=stage["port"]["id"])
        cloud.change("port", stage["port"]["id"], fixed_ips=[{"ip_address": "10.0.0.200"}])
        assert cloud.show("floatingip", floating["id"])["port_id"] is None
        cloud.change("floatingip", floating["id"], port_id=stage["port"]["id"])
        cloud.remove("port", stage["port"]["id"])
        assert cloud.show("floatingip", floating["id"])["port_id"] is None

    def test_invalid_requests_are_refused(self, cloud: Any, stranger: Any, stage: dict[str, Any]) -> None:
        public = stage["public"]["id"]
        with pytest.raises(BadRequest, match="not a valid external network"):
            cloud.make("floatingip", floating_network_id=stage["network"]["id"])
        with pytest.raises(Forbidden, match="floating_ip_address"):
            cloud.make("floatingip", floating_network_id=public, floating_ip_address="203.0.113.99")
        with pytest.raises(BadRequest, match="does not have fixed ip"):
            cloud.make(
                "floatingip", floating_network_id=public, port_id=stage["port"]["id"], fixed_ip_address="10.0.0.99"
            )
        with pytest.raises(NotFound, match="Port"):
            stranger.make("floatingip", floating_network_id=public, port_id=stage["port"]["id"])
        two = cloud.make(
            "port",
            network_id=stage["network"]["id"],
            fixed_ips=[{"ip_address": "10.0.0.50"}, {"ip_address": "10.0.0.51"}],
        )
        with pytest.raises(BadRequest, match="multiple fixed IPv4 addresses"):
            cloud.make("floatingip", floating_network_id=public, port_id=two["id"])
        named = cloud.make("floatingip", floating_network_id=public, port_id=two["id"], fixed_ip_address="10.0.0.51")
        assert named["fixed_ip_address"] == "10.0.0.51"

    def test_administrator_chooses_the_floating_address(self, cloud: Any, stage: dict[str, Any]) -> None:
        admin = cloud.as_(network_caller("a", "admin"))
        wanted = {"floating_network_id": stage["public"]["id"], "floating_ip_address": "203.0.113.99"}
        assert admin.make("floatingip", **wanted)["floating_ip_address"] == "203.0.113.99"
        with pytest.raises(Conflict, match="already allocated"):
            admin.make("floatingip", **wanted)


def _by(**filters: str) -> Any:
    return ListQuery(filters={name: (value,) for name, value in filters.items()})
