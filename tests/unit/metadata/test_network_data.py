from __future__ import annotations

import pytest

from openimds.metadata.network_data import network_data
from openimds.resources.instance import Nic, NicAddress, NicSubnet
from openimds.resources.network import HostRoute

V4 = NicSubnet(
    ip_version=4,
    cidr="10.0.0.0/24",
    gateway_ip="10.0.0.1",
    addresses=(NicAddress("10.0.0.5"),),
    dns_nameservers=("8.8.8.8",),
    host_routes=(HostRoute("192.168.7.0/24", "10.0.0.254"),),
)
V6 = NicSubnet(ip_version=6, cidr="2001:db8::/64", gateway_ip="2001:db8::1", addresses=(NicAddress("2001:db8::5"),))


def subnet(base: NicSubnet, **changes: object) -> NicSubnet:
    fields = {name: getattr(base, name) for name in NicSubnet.__slots__}
    return NicSubnet(**(fields | changes))


def nic(*subnets: NicSubnet, **changes: object) -> Nic:
    fields: dict[str, object] = {
        "port_id": "ce531f90-199f",
        "mac_address": "fa:16:3e:11:22:33",
        "vif_type": "ovs",
        "device_name": "tapce531f90-19",
        "network_id": "net1",
        "mtu": 1450,
        "subnets": subnets,
    }
    return Nic(**(fields | changes))  # type: ignore[arg-type]


def test_document_without_nics_is_empty() -> None:
    assert network_data([]) == {}


def test_nic_without_subnets_is_left_out() -> None:
    assert network_data([nic()]) == {"links": [], "networks": [], "services": []}


def test_static_addresses_have_routes_and_services() -> None:
    document = network_data([nic(V4, V6)])
    assert document["links"] == [
        {
            "id": "tapce531f90-19",
            "vif_id": "ce531f90-199f",
            "type": "ovs",
            "mtu": 1450,
            "ethernet_mac_address": "fa:16:3e:11:22:33",
        }
    ]
    assert document["networks"] == [
        {
            "id": "network0",
            "type": "ipv4",
            "link": "tapce531f90-19",
            "ip_address": "10.0.0.5",
            "netmask": "255.255.255.0",
            "routes": [
                {"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "10.0.0.1"},
                {"network": "192.168.7.0", "netmask": "255.255.255.0", "gateway": "10.0.0.254"},
            ],
            "network_id": "net1",
            "services": [{"type": "dns", "address": "8.8.8.8"}],
        },
        {
            "id": "network1",
            "type": "ipv6",
            "link": "tapce531f90-19",
            "ip_address": "2001:db8::5",
            "netmask": "ffff:ffff:ffff:ffff::",
            "routes": [{"network": "::", "netmask": "::", "gateway": "2001:db8::1"}],
            "network_id": "net1",
            "services": [],
        },
    ]
    assert list(document["networks"][0]) == [
        "id",
        "type",
        "link",
        "ip_address",
        "netmask",
        "routes",
        "network_id",
        "services",
    ]


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"enable_dhcp": True}, "ipv6_dhcp"),
        ({"has_dhcp_server": True}, "ipv6_dhcp"),
        ({"ipv6_address_mode": "slaac", "enable_dhcp": True}, "ipv6_slaac"),
        ({"ipv6_address_mode": "dhcpv6-stateful", "has_dhcp_server": True}, "ipv6_dhcpv6-stateful"),
        ({"ipv6_address_mode": "dhcpv6-stateless"}, "ipv6_dhcpv6-stateless"),
    ],
)
def test_network_type_follows_the_address_mode(changes: dict[str, object], kind: str) -> None:
    (network,) = network_data([nic(subnet(V6, **changes))])["networks"]
    assert network["type"] == kind
    assert ("ip_address" in network) == (kind != "ipv6_dhcp")


def test_dhcp_network_has_no_address() -> None:
    document = network_data([nic(subnet(V4, enable_dhcp=True, has_dhcp_server=True))])
    assert document["networks"] == [
        {"id": "network0", "type": "ipv4_dhcp", "link": "tapce531f90-19", "network_id": "net1"}
    ]
    assert document["services"] == [{"type": "dns", "address": "8.8.8.8"}]


@pytest.mark.parametrize(("served", "mtu"), [(True, None), (False, 1450)])
def test_mtu_is_null_with_a_dhcp_server(served: bool, mtu: int | None) -> None:
    (link,) = network_data([nic(V4, subnet(V6, has_dhcp_server=served))])["links"]
    assert link["mtu"] == mtu


@pytest.mark.parametrize(
    ("vif_type", "kind"),
    [("bridge", "bridge"), ("tap", "tap"), ("unbound", "phy"), ("hostdev_physical", "phy"), (None, "phy")],
)
def test_unknown_link_types_are_phy(vif_type: str | None, kind: str) -> None:
    assert network_data([nic(V4, vif_type=vif_type)])["links"][0]["type"] == kind


def test_links_without_a_device_name_are_numbered() -> None:
    document = network_data([nic(), nic(V4, device_name=None), nic(V4, device_name="")])
    assert [link["id"] for link in document["links"]] == ["interface0", "interface1"]


def test_only_the_first_subnet_of_a_family_is_shown() -> None:
    without = subnet(V4, addresses=())
    assert network_data([nic(without, V4)])["networks"] == []


def test_services_are_distinct_and_a_missing_gateway_gives_no_route() -> None:
    document = network_data([nic(V4), nic(subnet(V4, gateway_ip=None, host_routes=()))])
    assert document["services"] == [{"type": "dns", "address": "8.8.8.8"}]
    assert document["networks"][1]["routes"] == []
