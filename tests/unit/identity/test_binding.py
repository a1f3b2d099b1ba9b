"""Which port asks, by listener, address and MAC."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from openimds.identity.binding import BindingIndex, NobodyAsks, NotKnownYet, source_of, the_one
from openimds.identity.source import parse_address
from openimds.resources.network import AddressPair, FixedIP, Port

MAC_A, MAC_B, MAC_V = "fa:16:3e:00:00:0a", "fa:16:3e:00:00:0b", "00:00:5e:00:01:01"


def port(port_id: str, mac: str, *addresses: str, network: str = "n1", pairs: tuple[AddressPair, ...] = ()) -> Port:
    return Port(
        id=port_id,
        network_id=network,
        project_id="p",
        mac_address=mac.upper(),
        fixed_ips=tuple(FixedIP("s", address) for address in addresses),
        device_id=f"vm-{port_id}",
        device_owner="compute:nova",
        allowed_address_pairs=pairs,
    )


def interface(port_id: str, router: str, network: str) -> Port:
    return replace(
        port(port_id, "fa:16:3e:ff:ff:01", "10.0.0.1", network=network),
        device_id=router,
        device_owner="network:router_interface",
    )


A = port("a", MAC_A, "10.0.0.5", "fd00::5", pairs=(AddressPair("10.0.0.100", MAC_V), AddressPair("10.1.0.0/24")))
B = port("b", MAC_B, "10.0.0.6", pairs=(AddressPair("10.0.0.100", MAC_V),))
ON_N2 = port("c", MAC_A, "10.0.0.5", network="n2")
PORTS = {one.id: one for one in (A, B, ON_N2, interface("i1", "r1", "n1"), interface("i2", "r2", "n2"))}


def asks(listener: str, address: str, mac: str, ports: dict[str, Port] | None = None) -> str:
    """The port's id, or the outcome."""
    index = BindingIndex()
    index.update(PORTS if ports is None else ports)
    source = source_of(listener, parse_address(address), mac)
    try:
        return the_one(index.candidates(source), source).id
    except NobodyAsks as nobody:
        return nobody.outcome


@pytest.mark.parametrize(
    ("listener", "address", "mac", "who"),
    [
        ("network:n1", "10.0.0.5", MAC_A, "a"),
        ("network:n1", "10.0.0.5", MAC_A.upper(), "a"),
        ("network:n1", "::ffff:10.0.0.5", MAC_A, "a"),
        ("network:n1", "fd00::5", MAC_A, "a"),
        ("network:n2", "10.0.0.5", MAC_A, "c"),
        ("router:r1", "10.0.0.5", MAC_A, "a"),
        ("router:r2", "10.0.0.5", MAC_A, "c"),
        ("network:n1", "10.0.0.5", MAC_B, "none"),  # another's address
        ("network:n1", "10.0.0.6", MAC_A, "none"),
        ("network:n1", "10.0.0.5", "", "none"),  # never less evidence
        ("network:n3", "10.0.0.5", MAC_A, "none"),
        ("router:r3", "10.0.0.5", MAC_A, "none"),
        ("network:n1", "192.0.2.1", MAC_A, "none"),  # no address of this network
        ("network:n1", "10.0.0.1", "fa:16:3e:ff:ff:01", "none"),  # the router itself
        ("network:n1", "10.1.0.77", MAC_A, "a"),  # a pair with a CIDR, and the port's own MAC
        ("network:n1", "10.1.0.77", MAC_V, "none"),
        ("network:n1", "10.0.0.100", MAC_V, "several"),  # a virtual address of two
        ("network:n1", "10.0.0.100", MAC_A, "none"),
        ("network:n1", "fe80::1234", MAC_A, "a"),  # link-local: by the MAC, whatever the address
        ("network:n1", "fe80::1234%tap0", MAC_B, "b"),
        ("network:n1", "fe80::1234", MAC_V, "none"),
        ("network:n1", "fd00::abcd:1", MAC_A, "a"),  # a temporary address in its own prefix
        ("network:n1", "fd01::abcd:1", MAC_A, "none"),
        ("network:n1", "fd00::abcd:1", MAC_B, "none"),
    ],
)
def test_who_asks(listener: str, address: str, mac: str, who: str) -> None:
    assert asks(listener, address, mac) == who


def test_two_ports_with_one_mac_and_address_are_nobody() -> None:
    twin = replace(A, id="twin")
    assert asks("network:n1", "10.0.0.5", MAC_A, PORTS | {"twin": twin}) == "several"


def test_a_port_without_an_instance_is_not_known_yet() -> None:
    with pytest.raises(NotKnownYet, match="not bound"):
        asks("network:n1", "10.0.0.5", MAC_A, {"a": replace(A, device_id="", device_owner="")})


def test_an_update_tells_whom_it_may_concern() -> None:
    index = BindingIndex()
    assert MAC_A in index.update(PORTS)
    assert index.update(dict(PORTS)) == frozenset()
    moved = replace(B, mac_address="fa:16:3e:00:00:0c")
    assert index.update(PORTS | {"b": moved}) == {MAC_B, MAC_V, "fa:16:3e:00:00:0c"}
    without_interface = {port_id: one for port_id, one in PORTS.items() if port_id != "i1"} | {"b": moved}
    assert "r1" in index.update(without_interface)
    source = source_of("router:r1", ip_address("10.0.0.5"), MAC_A)
    assert index.candidates(source) == ()


@pytest.mark.parametrize("listener", ["", "metadata_proxy", "network:", "n1"])
def test_other_listeners_have_no_guests(listener: str) -> None:
    with pytest.raises(ValueError, match="neither"):
        source_of(listener, ip_address("10.0.0.5"), MAC_A)
