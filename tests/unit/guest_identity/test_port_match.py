"""The port of a client, by listener, address and MAC."""

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


def match(listener: str, address: str, mac: str, ports: dict[str, Port] | None = None, device: str = "") -> str:
    """Returns the port's ID, or the outcome if no single port matches."""
    index = MacIndex()
    index.update(PORTS if ports is None else ports, SUBNETS)
    source = source_of(listener, parse_address(address), mac, device)
    try:
        return the_one(index.candidates(source), source).id
    except NoSinglePort as error:
        return error.outcome


@pytest.mark.parametrize(
    ("listener", "address", "mac", "expected"),
    [
        ("network:n1", "10.0.0.5", MAC_A, "a"),
        ("network:n1", "10.0.0.5", MAC_A.upper(), "a"),
        ("network:n1", "::ffff:10.0.0.5", MAC_A, "a"),
        ("network:n1", "fd00::5", MAC_A, "a"),
        ("network:n2", "10.0.0.5", MAC_A, "c"),
        ("router:r1", "10.0.0.5", MAC_A, "a"),
        ("router:r2", "10.0.0.5", MAC_A, "c"),
        ("network:n1", "10.0.0.5", MAC_B, "none"),  # the address of another port
        ("network:n1", "10.0.0.6", MAC_A, "none"),
        ("network:n1", "10.0.0.5", "", "none"),  # an address without a MAC is not sufficient
        ("network:n3", "10.0.0.5", MAC_A, "none"),
        ("router:r3", "10.0.0.5", MAC_A, "none"),
        ("network:n1", "192.0.2.1", MAC_A, "none"),  # an address outside the network
        ("network:n1", "10.0.0.1", "fa:16:3e:ff:ff:01", "none"),  # the router itself
        ("network:n1", "10.1.0.77", MAC_A, "a"),  # an address pair with a CIDR, and the port's own MAC
        ("network:n1", "10.1.0.77", MAC_V, "none"),
        ("network:n1", "10.0.0.100", MAC_V, "several"),  # a virtual address of two ports
        ("network:n1", "10.0.0.100", MAC_A, "none"),
        ("network:n1", "fe80::1234", MAC_A, "a"),  # a link-local address is found by its MAC alone
        ("network:n1", "fe80::1234%tap0", MAC_B, "b"),
        ("network:n1", "fe80::1234", MAC_V, "none"),
        ("network:n1", "fd00::abcd:1", MAC_A, "a"),  # a temporary address in the prefix of the port
        ("network:n1", "fd01::abcd:1", MAC_A, "none"),
        ("network:n1", "fd00::abcd:1", MAC_B, "none"),
    ],
)
def test_the_port_of_a_client_is_found_by_listener_address_and_mac(
    listener: str, address: str, mac: str, expected: str
) -> None:
    assert match(listener, address, mac) == expected


def test_the_device_is_ignored_for_the_listener_of_a_network() -> None:
    """Equal sources share one query."""
    address = ip_address("fe80::7")
    assert source_of("network:n1", address, MAC_A, "tap0") == source_of("network:n1", address, MAC_A)
    assert source_of("router:r1", address, MAC_A, "qr-1") != source_of("router:r1", address, MAC_A)


def test_two_ports_with_one_mac_and_address_are_ambiguous() -> None:
    twin = replace(A, id="twin")
    assert match("network:n1", "10.0.0.5", MAC_A, PORTS | {"twin": twin}) == "several"


def test_an_unbound_port_is_not_ready() -> None:
    with pytest.raises(PortNotReady, match="not bound"):
        match("network:n1", "10.0.0.5", MAC_A, {"a": replace(A, device_id="", device_owner="")})


def test_an_update_returns_the_keys_of_affected_clients() -> None:
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
def test_other_listeners_are_rejected(listener: str) -> None:
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
    evil("n3", MAC_A, "10.3.0.5", pair="0.0.0.0/0"),  # the owner of a network chooses the MACs of its ports
    replace(evil("n3", MAC_A), fixed_ips=(FixedIP("overlapping", "10.0.0.5"),)),
]
"""Ports that the owner of another network behind the same router can create."""


def shared_router(*ports: Port) -> dict[str, Port]:
    return {one.id: one for one in (LEG, EVIL_LEG, *ports)}


@pytest.mark.parametrize("claim", CLAIMS)
def test_ports_of_another_network_behind_the_router_do_not_match(claim: Port) -> None:
    for ports in (shared_router(VICTIM, claim), shared_router(claim, VICTIM)):
        assert match("router:r1", "10.0.0.5", MAC_A, ports) == "victim"
        assert match("router:r1", "10.0.0.100", MAC_V, ports) == "victim"  # an address pair of the victim


@pytest.mark.parametrize("claim", CLAIMS)
def test_an_unknown_client_does_not_match_a_port_of_another_network(claim: Port) -> None:
    """The user data of that port could have a script, and the instance would run it."""
    assert match("router:r1", "10.0.0.5", MAC_A, shared_router(claim)) == "none"
    assert match("router:r1", "10.0.0.100", MAC_V, shared_router(claim)) == "none"


@pytest.mark.parametrize("claim", [evil("n3", MAC_A, "10.3.0.5"), evil(pair="fe80::/10"), evil(pair="::/0")])
def test_a_link_local_address_is_on_the_network_of_its_device(claim: Port) -> None:
    ports = shared_router(VICTIM, claim)
    assert match("router:r1", "fe80::7", MAC_A, ports, LEG.router_device_name) == "victim"
    assert match("router:r1", "fe80::7", MAC_A, ports, EVIL_LEG.router_device_name) == "evil"
    assert match("router:r1", "fe80::7", MAC_A, shared_router(claim), LEG.router_device_name) == "none"
    assert match("router:r1", "fe80::7", MAC_A, ports, "qg-11111111-11") == "none"  # the device is the external gateway
    assert match("router:r1", "fe80::7", MAC_A, ports) == "none"  # the device is unknown
    assert match("network:n1", "fe80::7", MAC_A, ports, "tap59c6e1f0-1e") == "victim"


@pytest.mark.parametrize("pair", ["10.0.0.5", "0.0.0.0/0"])
def test_an_address_pair_of_the_same_project_on_the_same_network_does_not_hide_a_port(pair: str) -> None:
    other = port("other", MAC_B, "10.0.0.6", pairs=(AddressPair(pair, MAC_A),))
    for listener in ("network:n1", "router:r1"):
        assert match(listener, "10.0.0.5", MAC_A, shared_router(VICTIM, other)) == "victim"
        assert match(listener, "10.0.0.6", MAC_B, shared_router(VICTIM, other)) == "other"
    # No port has the address, so the address pair matches.
    assert match("network:n1", "10.0.0.5", MAC_A, shared_router(other)) == "other"


def test_an_address_pair_of_the_same_project_on_another_network_makes_the_client_ambiguous() -> None:
    other = port("other", MAC_B, "10.3.0.6", network="n3", pairs=(AddressPair("fe80::/10", MAC_A),))
    assert match("router:r1", "fe80::7", MAC_A, shared_router(VICTIM)) == "victim"
    assert match("router:r1", "fe80::7", MAC_A, shared_router(VICTIM, other)) == "several"


@pytest.mark.parametrize("pair", ["10.0.0.5", "0.0.0.0/0"])
def test_an_address_pair_of_another_project_on_the_same_network_makes_the_client_ambiguous(pair: str) -> None:
    """The owner of a shared network lets its own instance use another project's address. No client is identified then."""
    claim = evil("n1", MAC_B, "10.0.0.66", pair=pair)
    for listener in ("network:n1", "router:r1"):
        assert match(listener, "10.0.0.5", MAC_A, shared_router(VICTIM, claim)) == "several"
        assert match(listener, "10.0.0.66", MAC_B, shared_router(VICTIM, claim)) == "evil"


def test_two_ports_with_one_address_stay_ambiguous_with_any_address_pair() -> None:
    twin = replace(VICTIM, id="twin")
    other = port("other", MAC_B, "10.0.0.6", pairs=(AddressPair("10.0.0.5", MAC_A),))
    assert match("network:n1", "10.0.0.5", MAC_A, shared_router(VICTIM, twin, other)) == "several"


def test_a_removed_subnet_affects_its_router() -> None:
    index = MacIndex()
    ports = shared_router(VICTIM)
    index.update(ports, SUBNETS)
    assert index.update(ports, {}) == {"r1"}
