"""Ports by where they are."""

from __future__ import annotations

from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from openimds.guest_identity.port_index import AddressIndex, is_instance_port
from openimds.resources.network import FixedIP, Port, Subnet

SUBNETS = {"s": Subnet(id="s", network_id="net-1", project_id="t", cidr="10.0.0.0/24", gateway_ip="10.0.0.1")}


def port(
    port_id: str,
    network: str = "net-1",
    ip: str = "10.0.0.5",
    *,
    device_id: str = "vm",
    device_owner: str = "compute:nova",
) -> Port:
    return Port(
        id=port_id,
        network_id=network,
        project_id="t",
        mac_address=f"FA:16:3E:00:00:{port_id}",
        fixed_ips=(FixedIP("s", ip),),
        device_id=device_id,
        device_owner=device_owner,
    )


def interface(port_id: str, network: str, router: str) -> Port:
    return port(port_id, network, "10.0.0.1", device_id=router, device_owner="network:router_interface")


def index_of(*ports: Port) -> AddressIndex:
    index = AddressIndex()
    index.update({each.id: each for each in ports}, SUBNETS)
    return index


def ids(found: tuple[Port, ...]) -> list[str]:
    return sorted(each.id for each in found)


def test_the_same_address_on_two_networks():
    index = index_of(port("01", "net-1"), port("02", "net-2"))
    assert ids(index.on_network("net-1", "10.0.0.5")) == ["01"]
    assert ids(index.on_network("net-2", "10.0.0.5")) == ["02"]
    assert index.on_network("net-3", "10.0.0.5") == ()
    assert index.on_network("net-1", "10.0.0.6") == ()


def test_behind_a_router_are_the_networks_it_has_an_interface_on():
    gateway = port("0f", "outside", "203.0.113.9", device_id="r1", device_owner="network:router_gateway")
    index = index_of(
        port("01", "net-1"), port("02", "net-2"), port("03", "outside"), interface("0a", "net-1", "r1"), gateway
    )
    assert ids(index.behind_router("r1", "10.0.0.5", ip_address("10.0.0.5"))) == ["01"]
    assert index.behind_router("r2", "10.0.0.5", ip_address("10.0.0.5")) == ()
    assert index.behind_router("", "10.0.0.5", ip_address("10.0.0.5")) == ()


def test_two_interfaces_on_one_network_find_a_port_once():
    index = index_of(port("01"), interface("0a", "net-1", "r1"), interface("0b", "net-1", "r1"))
    assert ids(index.behind_router("r1", "10.0.0.5", ip_address("10.0.0.5"))) == ["01"]


def test_several_are_told_as_several():
    index = index_of(
        port("01", "net-1"), port("02", "net-2"), interface("0a", "net-1", "r1"), interface("0b", "net-2", "r1")
    )
    assert ids(index.behind_router("r1", "10.0.0.5", ip_address("10.0.0.5"))) == ["01", "02"]


def test_by_mac_in_lower_case():
    assert ids(index_of(port("01")).on_network("net-1", "fa:16:3e:00:00:01")) == ["01"]


def test_addresses_are_compared_as_addresses():
    assert ids(index_of(port("01", ip="FD00:0:0::5")).on_network("net-1", "fd00::5")) == ["01"]


def test_behind_the_networks_own_ports_is_no_instance():
    for owner in ("network:dhcp", "network:router_interface", "network:floatingip", "network:distributed"):
        assert not is_instance_port(port("01", device_owner=owner))
    assert not is_instance_port(port("01", device_id=""))
    assert is_instance_port(port("01", device_owner=""))
    assert is_instance_port(port("01", device_owner="baremetal:none"))
    assert index_of(port("01", device_owner="network:dhcp")).on_network("net-1", "10.0.0.5") == ()


def test_a_moved_address_is_the_new_ports_alone():
    old, new = port("01"), port("02")
    index = index_of(old)
    index.update({"02": new}, {})
    assert ids(index.on_network("net-1", "10.0.0.5")) == ["02"]
    index.update({"02": port("02", ip="10.0.0.7")}, {})
    assert index.on_network("net-1", "10.0.0.5") == ()
    assert ids(index.on_network("net-1", "10.0.0.7")) == ["02"]


def test_an_update_says_where_somebody_else_may_be_found_now():
    index = index_of(port("01"), port("03", ip="10.0.0.9", device_id=""))
    mac = port("03").mac_address.lower()
    assert index.update(
        {"01": index.on_network("net-1", "10.0.0.5")[0]}, {}
    ) == {  # a port that no instance had has gone
        *("10.0.0.9", ("net-1", "10.0.0.9"), mac, ("net-1", mac))
    }
    index.update({}, {})
    assert index.update({"0a": interface("0a", "net-1", "r1")}, {}) >= {"r1"}


def test_a_removed_interface_ends_the_routers_reach():
    index = index_of(port("01"), interface("0a", "net-1", "r1"))
    index.update({"01": index.on_network("net-1", "10.0.0.5")[0]}, {})
    assert index.behind_router("r1", "10.0.0.5", ip_address("10.0.0.5")) == ()


PORTS = st.dictionaries(
    st.sampled_from([f"0{digit}" for digit in "12345"]),
    st.tuples(st.sampled_from(["net-1", "net-2"]), st.sampled_from(["10.0.0.5", "10.0.0.6"]), st.booleans()),
)


@given(st.lists(PORTS, max_size=5))
def test_however_it_came_about_the_index_is_that_of_its_ports(steps):
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
            assert ids(index.on_network(network, ip)) == ids(fresh.on_network(network, ip))
            assert ids(index.behind_router("r1", ip, ip_address(ip))) == ids(
                fresh.behind_router("r1", ip, ip_address(ip))
            )
