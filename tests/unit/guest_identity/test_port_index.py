"""Ports by network, router, address and MAC."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests import builders

from openimds.guest_identity.addresses import parse_address
from openimds.guest_identity.port_index import AddressIndex
from openimds.guest_identity.port_match import is_instance_port
from openimds.resources.network import FixedIP, Port, Subnet

SUBNETS = {"s": Subnet(id="s", network_id="net-1", project_id="t", cidr="10.0.0.0/24", gateway_ip="10.0.0.1")}


def port(port_id: str, network: str = "net-1", ip: str = builders.ADDRESS, **fields: Any) -> Port:
    return builders.port(port_id, f"FA:16:3E:00:00:{port_id}", ip, network=network, **({"project_id": "t"} | fields))


def interface(port_id: str, network: str, router: str) -> Port:
    return port(port_id, network, "10.0.0.1", device_id=router, device_owner="network:router_interface")


def index_of(*ports: Port) -> AddressIndex:
    index = AddressIndex()
    index.update({each.id: each for each in ports}, SUBNETS)
    return index


def candidates(index: AddressIndex, listener: str, place: str) -> tuple[Port, ...]:
    address, mac = ("fe80::1", place) if len(place) == len("fa:16:3e:00:00:01") else (place, "")
    return index.candidates(index.source(listener, parse_address(address), mac, ""))


def on_network(index: AddressIndex, network_id: str, place: str) -> tuple[Port, ...]:
    return candidates(index, f"network:{network_id}", place)


def behind_router(index: AddressIndex, router_id: str, place: str) -> tuple[Port, ...]:
    return candidates(index, f"router:{router_id}", place)


def ids(found: tuple[Port, ...]) -> list[str]:
    return sorted(each.id for each in found)


def test_the_same_address_on_two_networks_finds_the_port_of_each_network():
    index = index_of(port("01", "net-1"), port("02", "net-2"))
    assert ids(on_network(index, "net-1", "10.0.0.5")) == ["01"]
    assert ids(on_network(index, "net-2", "10.0.0.5")) == ["02"]
    assert on_network(index, "net-3", "10.0.0.5") == ()
    assert on_network(index, "net-1", "10.0.0.6") == ()


def test_only_networks_with_an_internal_interface_are_behind_a_router():
    gateway = port("0f", "outside", "203.0.113.9", device_id="r1", device_owner="network:router_gateway")
    index = index_of(
        port("01", "net-1"), port("02", "net-2"), port("03", "outside"), interface("0a", "net-1", "r1"), gateway
    )
    assert ids(behind_router(index, "r1", "10.0.0.5")) == ["01"]
    assert behind_router(index, "r2", "10.0.0.5") == ()


def test_two_interfaces_on_one_network_find_a_port_once():
    index = index_of(port("01"), interface("0a", "net-1", "r1"), interface("0b", "net-1", "r1"))
    assert ids(behind_router(index, "r1", "10.0.0.5")) == ["01"]


def test_all_ports_with_the_same_address_behind_a_router_are_found():
    index = index_of(
        port("01", "net-1"), port("02", "net-2"), interface("0a", "net-1", "r1"), interface("0b", "net-2", "r1")
    )
    assert ids(behind_router(index, "r1", "10.0.0.5")) == ["01", "02"]


def test_a_port_is_found_by_its_mac_in_lower_case():
    assert ids(on_network(index_of(port("01")), "net-1", "fa:16:3e:00:00:01")) == ["01"]


def test_addresses_are_compared_as_addresses():
    assert ids(on_network(index_of(port("01", ip="FD00:0:0::5")), "net-1", "fd00::5")) == ["01"]


def test_ports_of_the_network_are_not_instance_ports():
    for owner in ("network:dhcp", "network:router_interface", "network:floatingip", "network:distributed"):
        assert not is_instance_port(port("01", device_owner=owner))
    assert not is_instance_port(port("01", device_id=""))
    assert is_instance_port(port("01", device_owner=""))
    assert is_instance_port(port("01", device_owner="baremetal:none"))
    assert on_network(index_of(port("01", device_owner="network:dhcp")), "net-1", "10.0.0.5") == ()


def test_a_moved_address_finds_only_the_new_port():
    old, new = port("01"), port("02")
    index = index_of(old)
    index.update({"02": new}, {})
    assert ids(on_network(index, "net-1", "10.0.0.5")) == ["02"]
    index.update({"02": port("02", ip="10.0.0.7")}, {})
    assert on_network(index, "net-1", "10.0.0.5") == ()
    assert ids(on_network(index, "net-1", "10.0.0.7")) == ["02"]


def test_an_update_returns_the_keys_of_changed_results():
    index = index_of(port("01"), port("03", ip="10.0.0.9", device_id=""))
    mac = port("03").mac_address.lower()
    assert index.update({"01": on_network(index, "net-1", "10.0.0.5")[0]}, {}) == {  # the unbound port is removed
        *("10.0.0.9", ("net-1", "10.0.0.9"), mac, ("net-1", mac))
    }
    index.update({}, {})
    assert index.update({"0a": interface("0a", "net-1", "r1")}, {}) >= {"r1"}


def test_a_removed_interface_ends_the_search_on_its_network():
    index = index_of(port("01"), interface("0a", "net-1", "r1"))
    index.update({"01": on_network(index, "net-1", "10.0.0.5")[0]}, {})
    assert behind_router(index, "r1", "10.0.0.5") == ()


EUI64 = "fe80::f816:3eff:fe00:1"
"""The link-local address with the MAC of the port `01`."""


def of_project(project: str, made: Port) -> Port:
    return replace(made, project_id=project)


@pytest.mark.parametrize("project", ["t", "other"])
def test_a_link_local_client_behind_a_router_needs_ports_of_one_project(project: str):
    """A client of `net-2` could use the link-local address of a port on `net-1`: no header names the device."""
    neighbour = of_project(project, port("02", "net-2", "10.0.0.6"))
    index = index_of(port("01"), neighbour, interface("0a", "net-1", "r1"), interface("0b", "net-2", "r1"))
    assert ids(behind_router(index, "r1", EUI64)) == (["01"] if project == "t" else [])
    assert ids(behind_router(index, "r1", "10.0.0.5")) == ["01"]
    assert ids(on_network(index, "net-1", EUI64)) == ["01"]


def test_a_router_interface_that_does_not_act_for_its_network_counts_for_link_local_clients():
    """The clients of that network reach the router's metadata proxy too."""
    outside = replace(interface("0b", "net-2", "r1"), fixed_ips=(FixedIP("foreign", "10.2.0.9"),))
    foreign = Subnet(id="foreign", network_id="net-2", project_id="other", cidr="10.2.0.0/24", gateway_ip="10.2.0.1")
    ports = (port("01"), of_project("other", port("02", "net-2", "10.2.0.5")), interface("0a", "net-1", "r1"), outside)
    index = AddressIndex()
    index.update({each.id: each for each in ports}, SUBNETS | {"foreign": foreign})
    assert behind_router(index, "r1", EUI64) == ()


def test_a_link_local_client_on_a_single_network_behind_a_router_is_found_by_its_mac():
    """Port security lets no other port of the same network use an address with this MAC."""
    index = index_of(port("01"), of_project("other", port("02", ip="10.0.0.6")), interface("0a", "net-1", "r1"))
    assert ids(behind_router(index, "r1", EUI64)) == ["01"]


@pytest.mark.parametrize("project", ["t", "other"])
def test_a_mac_of_the_neighbour_table_needs_ports_of_one_project(project: str):
    """Another client can announce the address with its own MAC, and withdraw it after its connection is open."""
    index = index_of(port("01"), of_project(project, port("02", ip="10.0.0.6")))
    source = index.source("network:net-1", parse_address("fe80::7"), port("01").mac_address, "")
    found = index.candidates(replace(source, is_mac_from_neighbours=True))
    assert ids(found) == (["01"] if project == "t" else [])
    index.update({"01": port("01")}, SUBNETS)
    assert ids(index.candidates(replace(source, is_mac_from_neighbours=True))) == ["01"]


PORTS = st.dictionaries(
    st.sampled_from([f"0{digit}" for digit in "12345"]),
    st.tuples(st.sampled_from(["net-1", "net-2"]), st.sampled_from(["10.0.0.5", "10.0.0.6"]), st.booleans()),
)


@given(st.lists(PORTS, max_size=5))
def test_an_updated_index_equals_a_new_index_of_the_same_ports(steps):
    index = AddressIndex()
    ports: dict[str, Port] = {}
    for step in steps:
        ports = {
            name: interface(name, network, "r1") if is_router else port(name, network, ip)
            for name, (network, ip, is_router) in step.items()
        }
        index.update(ports, SUBNETS)
    fresh = index_of(*ports.values())
    assert len(index) == len(ports)
    for network in ("net-1", "net-2"):
        for ip in ("10.0.0.5", "10.0.0.6"):
            assert ids(on_network(index, network, ip)) == ids(on_network(fresh, network, ip))
            assert ids(behind_router(index, "r1", ip)) == ids(behind_router(fresh, "r1", ip))
