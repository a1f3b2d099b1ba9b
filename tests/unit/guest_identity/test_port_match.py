"""Which port asks, by listener, address and MAC."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from tests import builders

from openimds.guest_identity.addresses import parse_address
from openimds.guest_identity.port_index import MacIndex
from openimds.guest_identity.port_match import NoSinglePort, PortNotReady, source_of, the_one
from openimds.resources.network import AddressPair, FixedIP, Port, Subnet

MAC_A, MAC_B, MAC_V = "fa:16:3e:00:00:0a", "fa:16:3e:00:00:0b", "00:00:5e:00:01:01"


def port(port_id: str, mac: str, *addresses: str, pairs: tuple[AddressPair, ...] = (), **fields: Any) -> Port:
    return builders.port(port_id, mac.upper(), *addresses, allowed_address_pairs=pairs, **fields)


def interface(port_id: str, router: str, network: str) -> Port:
    return builders.router_interface(port_id, router, network)


A = port("a", MAC_A, "10.0.0.5", "fd00::5", pairs=(AddressPair("10.0.0.100", MAC_V), AddressPair("10.1.0.0/24")))
B = port("b", MAC_B, "10.0.0.6", pairs=(AddressPair("10.0.0.100", MAC_V),))
ON_N2 = port("c", MAC_A, "10.0.0.5", network="n2")
PORTS = {one.id: one for one in (A, B, ON_N2, interface("i1", "r1", "n1"), interface("i2", "r2", "n2"))}


SUBNETS = {
    one.id: one
    for one in (
        Subnet(id="s", network_id="n1", project_id="p", cidr="10.0.0.0/24"),
        Subnet(id="evil", network_id="n3", project_id="evil", cidr="10.3.0.0/24"),
        Subnet(id="overlapping", network_id="n3", project_id="evil", cidr="10.0.0.0/24"),
    )
}


def asks(listener: str, address: str, mac: str, ports: dict[str, Port] | None = None, device: str = "") -> str:
    """The port's id, or the outcome."""
    index = MacIndex()
    index.update(PORTS if ports is None else ports, SUBNETS)
    source = source_of(listener, parse_address(address), mac, device)
    try:
        return the_one(index.candidates(source), source).id
    except NoSinglePort as nobody:
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


def test_a_networks_listener_says_more_than_any_device() -> None:
    """Equal looks are one."""
    address = ip_address("fe80::7")
    assert source_of("network:n1", address, MAC_A, "tap0") == source_of("network:n1", address, MAC_A)
    assert source_of("router:r1", address, MAC_A, "qr-1") != source_of("router:r1", address, MAC_A)


def test_two_ports_with_one_mac_and_address_are_nobody() -> None:
    twin = replace(A, id="twin")
    assert asks("network:n1", "10.0.0.5", MAC_A, PORTS | {"twin": twin}) == "several"


def test_a_port_without_an_instance_is_not_known_yet() -> None:
    with pytest.raises(PortNotReady, match="not bound"):
        asks("network:n1", "10.0.0.5", MAC_A, {"a": replace(A, device_id="", device_owner="")})


def test_an_update_tells_whom_it_may_concern() -> None:
    index = MacIndex()
    assert MAC_A in index.update(PORTS, {})
    assert index.update(dict(PORTS), {}) == frozenset()
    moved = replace(B, mac_address="fa:16:3e:00:00:0c")
    macs = (MAC_B, MAC_V, "fa:16:3e:00:00:0c")
    assert index.update(PORTS | {"b": moved}, {}) == {*macs, *(("n1", mac) for mac in macs)}
    without_interface = {port_id: one for port_id, one in PORTS.items() if port_id != "i1"} | {"b": moved}
    assert "r1" in index.update(without_interface, {})
    source = source_of("router:r1", ip_address("10.0.0.5"), MAC_A)
    assert index.candidates(source) == ()


@pytest.mark.parametrize("listener", ["", "metadata_proxy", "network:", "n1"])
def test_other_listeners_have_no_guests(listener: str) -> None:
    with pytest.raises(ValueError, match="neither"):
        source_of(listener, ip_address("10.0.0.5"), MAC_A)


EVIL_LEG = replace(
    interface("44444444-4444-evil", "r1", "n3"), fixed_ips=(FixedIP("evil", "10.3.0.1"),), project_id="evil"
)
LEG = replace(interface("11111111-1111-own", "r1", "n1"), fixed_ips=(FixedIP("s", "10.0.0.1"),))
VICTIM = port("victim", MAC_A, "10.0.0.5", pairs=(AddressPair("10.0.0.100", MAC_V),))


def evil(network: str = "n3", mac: str = MAC_B, *addresses: str, pair: str = "", pair_mac: str = MAC_A) -> Port:
    made = port("evil", mac, *addresses, network=network, pairs=(AddressPair(pair, pair_mac),) if pair else ())
    return replace(made, project_id="evil")


CLAIMS = [
    evil(pair="0.0.0.0/0"),
    evil(pair="10.0.0.5"),
    evil(pair="10.0.0.0/8"),
    evil(pair="0.0.0.0/0", pair_mac=MAC_V),
    evil("n3", MAC_A, "10.3.0.5", pair="0.0.0.0/0"),  # who owns a network chooses MACs on it
    replace(evil("n3", MAC_A), fixed_ips=(FixedIP("overlapping", "10.0.0.5"),)),
]
"""What the owner of another network behind the same router can say of its own ports."""


def shared_router(*ports: Port) -> dict[str, Port]:
    return {one.id: one for one in (LEG, EVIL_LEG, *ports)}


@pytest.mark.parametrize("claim", CLAIMS)
def test_another_network_behind_the_router_has_no_say(claim: Port) -> None:
    for ports in (shared_router(VICTIM, claim), shared_router(claim, VICTIM)):
        assert asks("router:r1", "10.0.0.5", MAC_A, ports) == "victim"
        assert asks("router:r1", "10.0.0.100", MAC_V, ports) == "victim"  # an address pair of the victim's own


@pytest.mark.parametrize("claim", CLAIMS)
def test_nor_gives_it_its_own_data_to_somebody_who_is_not_known_yet(claim: Port) -> None:
    """They might hold a script, and the guest might run it."""
    assert asks("router:r1", "10.0.0.5", MAC_A, shared_router(claim)) == "none"
    assert asks("router:r1", "10.0.0.100", MAC_V, shared_router(claim)) == "none"


@pytest.mark.parametrize("claim", [evil("n3", MAC_A, "10.3.0.5"), evil(pair="fe80::/10"), evil(pair="::/0")])
def test_a_link_local_address_is_on_the_network_that_it_came_in_by(claim: Port) -> None:
    ports = shared_router(VICTIM, claim)
    assert asks("router:r1", "fe80::7", MAC_A, ports, LEG.router_device_name) == "victim"
    assert asks("router:r1", "fe80::7", MAC_A, ports, EVIL_LEG.router_device_name) == "evil"
    assert asks("router:r1", "fe80::7", MAC_A, shared_router(claim), LEG.router_device_name) == "none"
    assert asks("router:r1", "fe80::7", MAC_A, ports, "qg-11111111-11") == "none"  # from outside
    assert asks("router:r1", "fe80::7", MAC_A, ports) == "none"  # the device is unknown
    assert asks("network:n1", "fe80::7", MAC_A, ports, "tap59c6e1f0-1e") == "victim"


@pytest.mark.parametrize("pair", ["10.0.0.5", "0.0.0.0/0"])
def test_on_one_network_a_pair_of_its_own_project_does_not_make_a_port_nobody(pair: str) -> None:
    other = port("other", MAC_B, "10.0.0.6", pairs=(AddressPair(pair, MAC_A),))
    for listener in ("network:n1", "router:r1"):
        assert asks(listener, "10.0.0.5", MAC_A, shared_router(VICTIM, other)) == "victim"
        assert asks(listener, "10.0.0.6", MAC_B, shared_router(VICTIM, other)) == "other"
    assert asks("network:n1", "10.0.0.5", MAC_A, shared_router(other)) == "other"  # nobody's own: the pair counts


def test_a_pair_of_its_own_project_on_another_network_tells_nothing() -> None:
    other = port("other", MAC_B, "10.3.0.6", network="n3", pairs=(AddressPair("fe80::/10", MAC_A),))
    assert asks("router:r1", "fe80::7", MAC_A, shared_router(VICTIM)) == "victim"
    assert asks("router:r1", "fe80::7", MAC_A, shared_router(VICTIM, other)) == "several"


@pytest.mark.parametrize("pair", ["10.0.0.5", "0.0.0.0/0"])
def test_on_one_network_a_pair_of_another_project_tells_it_nothing(pair: str) -> None:
    """The owner of a shared network lets its own instance send as another project's: then nobody is answered."""
    claim = evil("n1", MAC_B, "10.0.0.66", pair=pair)
    for listener in ("network:n1", "router:r1"):
        assert asks(listener, "10.0.0.5", MAC_A, shared_router(VICTIM, claim)) == "several"
        assert asks(listener, "10.0.0.66", MAC_B, shared_router(VICTIM, claim)) == "evil"


def test_two_owners_are_nobody_whatever_pairs_there_are() -> None:
    twin = replace(VICTIM, id="twin")
    other = port("other", MAC_B, "10.0.0.6", pairs=(AddressPair("10.0.0.5", MAC_A),))
    assert asks("network:n1", "10.0.0.5", MAC_A, shared_router(VICTIM, twin, other)) == "several"


def test_a_subnet_that_goes_concerns_its_router() -> None:
    index = MacIndex()
    ports = shared_router(VICTIM)
    index.update(ports, SUBNETS)
    assert index.update(ports, {}) == {"r1"}
