"""content/NNNN, and the interfaces file, which is the first of them."""

from __future__ import annotations

from openimds.metadata.injected_files import content_files, interfaces_file
from openimds.metadata.openstack import meta_data
from openimds.resources.instance import InjectedFile, Nic, NicAddress, NicSubnet

V4 = NicSubnet(
    ip_version=4,
    cidr="10.0.0.0/24",
    gateway_ip="10.0.0.1",
    addresses=(NicAddress("10.0.0.5"),),
    dns_nameservers=("8.8.8.8", "8.8.4.4"),
)
V6 = NicSubnet(ip_version=6, cidr="2001:db8::/64", addresses=(NicAddress("2001:db8::5"),))


def nic(*subnets: NicSubnet, injected: bool = True) -> Nic:
    return Nic(
        port_id="p",
        mac_address="fa:16:3e:11:22:33",
        vif_type="ovs",
        device_name="tap1",
        network_id="n",
        injected=injected,
        subnets=subnets,
    )


def test_interfaces_file_has_novas_text() -> None:
    text = interfaces_file([nic(), nic(V4, injected=False), nic(V4, V6)])
    assert text is not None
    assert text.startswith("# Injected by Nova on instance boot\n#\n")
    assert text.endswith(
        """
auto lo
iface lo inet loopback

auto eth1
iface eth1 inet static
    hwaddress ether fa:16:3e:11:22:33
    address 10.0.0.5
    netmask 255.255.255.0
    broadcast 10.0.0.255
    gateway 10.0.0.1
    dns-nameservers 8.8.8.8 8.8.4.4
iface eth1 inet6 static
    hwaddress ether fa:16:3e:11:22:33
    address 2001:db8::5
    netmask 64"""
    )


def test_nic_with_dhcp_has_no_interfaces_file() -> None:
    served = NicSubnet(ip_version=4, cidr="10.0.0.0/24", has_dhcp_server=True, addresses=(NicAddress("10.0.0.5"),))
    assert interfaces_file([nic(served)]) is None


def test_subnet_without_an_address_has_no_stanza() -> None:
    empty = NicSubnet(ip_version=4, cidr="10.0.0.0/24")
    assert (interfaces_file([nic(empty)]) or "").endswith("\n\nauto eth0")


def test_files_are_numbered_after_the_interfaces_file(make_context) -> None:
    context = make_context(nics=(nic(V4),), files=(InjectedFile("/etc/motd", b"hi"), InjectedFile("/b", b"\x00")))
    assert [(file.number, file.path) for file in content_files(context.instance)] == [
        ("0000", None),
        ("0001", "/etc/motd"),
        ("0002", "/b"),
    ]
    document = meta_data(context, "2012-08-10")
    assert document["network_config"] == {"name": "network_config", "content_path": "/content/0000"}
    assert document["files"] == [
        {"path": "/etc/motd", "content_path": "/content/0001"},
        {"path": "/b", "content_path": "/content/0002"},
    ]
