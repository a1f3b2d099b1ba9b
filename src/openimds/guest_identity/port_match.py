"""Which port asks, where the guest's own packet shows its MAC: the listener, the address and the MAC must agree.

Rules of this file:

1. A port asks from its fixed addresses by its MAC, and from its allowed address pairs by theirs (Neutron: the port's
   own MAC where a pair names none).
2. Of several ports on one network the one whose own address and MAC they are asks, before others of its project that
   have them as an address pair: that is what the pair says. Pairs of another project's ports leave it in the dark who
   asks: what one project tells its instances is never told on another's word.
3. An IPv6 link-local address is everybody's to choose (RFC 4291, 4941, 7217): there the MAC alone decides. A temporary
   address (RFC 8981) is taken where it lies in the same /64 as an address of the port.
4. Behind a router, only ports count on the network that the address or the device says (`guest_identity/router_networks.py`).
5. Without a MAC nobody is found: never less evidence. Two ports: nobody. No network: nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network

from openimds.guest_identity.addresses import Address
from openimds.guest_identity.mapping_diff import difference
from openimds.guest_identity.port_index import is_instance_port
from openimds.guest_identity.router_networks import RouterNetworks, discard, is_router_interface
from openimds.resources.network import AddressPair, Port, Subnet

_SLAAC_PREFIX_BITS = 64


class NoSinglePort(Exception):
    """It is known that no instance's port, or more than one, asks from there: a final no. A sentence for the log."""

    def __init__(self, outcome: str, sentence: str) -> None:
        super().__init__(sentence)
        self.outcome = outcome
        """`none` or `several`."""


class PortNotReady(Exception):
    """It cannot be told now who asks: the guest shall ask again. A sentence for the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSource:
    """Where a connection came from. One of the two ids is set."""

    network_id: str | None
    router_id: str | None
    address: Address
    mac: str
    """Lower case; empty when it is not known."""
    device: str = ""
    """By which a link-local address came into the router's namespace; empty when it is not known."""

    def __str__(self) -> str:
        where = f"network {self.network_id}" if self.network_id else f"router {self.router_id}"
        return f"{self.address} with MAC {self.mac or 'unknown'} on {where}"


@dataclass(slots=True, eq=False)
class Binding:
    """Who asks from a source, as long as nothing was heard that could change it."""

    source: ClientSource
    port: Port
    good: bool = True
    """May more than one request be answered by it? Turns False, once and for all, for everybody who holds it."""


def source_of(listener: str, address: Address, mac: str, device: str = "") -> ClientSource:
    """A listener's tag is `network:<id>` or `router:<id>`. Raises ValueError for any other.

    A network's listener says more than any device. Behind a router nobody comes in by another device than an interface
    on a network that it serves: not from outside, by its gateway.
    """
    kind, _, scope_id = listener.partition(":")
    if kind not in ("network", "router") or not scope_id:
        raise ValueError(f"the listener {listener!r} is neither a network's nor a router's")
    return ClientSource(
        network_id=scope_id if kind == "network" else None,
        router_id=scope_id if kind == "router" else None,
        address=address,
        mac=mac.lower(),
        device=device if kind == "router" else "",
    )


class MacIndex:
    """Ports by (network, MAC), and routers' networks: what is known, kept up. One thread's own."""

    def __init__(self) -> None:
        self._ports: dict[str, Port] = {}
        self._by_mac: dict[tuple[str, str], dict[str, Port]] = {}
        self._reach = RouterNetworks()

    def update(self, ports: Mapping[str, Port], subnets: Mapping[str, Subnet]) -> frozenset[str]:
        """Hold exactly these. → what `touched_between` says of the ports before and these, and routers on other subnets
        than before.
        """
        gone, new = difference(self._ports, ports)
        for port in gone:
            self._drop(port)
        for port in new:
            self._add(port)
        return _all_touched(gone, new).union(self._reach.know(subnets))

    def holds(self, port: Port) -> bool:
        """Whether it is one of these, and not an older or a newer one of the same id."""
        return self._ports.get(port.id) is port

    def networks(self, source: ClientSource) -> frozenset[str]:
        """The networks that it may be on."""
        if source.network_id:
            return frozenset({source.network_id})
        return self._reach.networks(source.router_id or "", source.address, source.device)

    def candidates(self, source: ClientSource) -> tuple[Port, ...]:
        """The ports that match. Only one of them is an identity."""
        if not source.mac:
            return ()
        found = [
            port
            for network_id in sorted(self.networks(source))
            for port in self._by_mac.get((network_id, source.mac), {}).values()
        ]
        return matching(found, source)

    def _add(self, port: Port) -> None:
        self._ports[port.id] = port
        self._reach.add(port)
        for mac in _macs(port):
            self._by_mac.setdefault((port.network_id, mac), {})[port.id] = port

    def _drop(self, port: Port) -> None:
        del self._ports[port.id]
        self._reach.drop(port)
        for mac in _macs(port):
            discard(self._by_mac, (port.network_id, mac), port.id)


def touched_between(before: Mapping[str, Port], after: Mapping[str, Port]) -> frozenset[str]:
    """The MACs and router ids of which it holds: somebody known by one of them may be somebody else now."""
    return _all_touched(*difference(before, after))


def matching(ports: Iterable[Port], source: ClientSource) -> tuple[Port, ...]:
    """Of these ports, all on networks that it may be on, the ones that may send from this address and MAC."""
    own, granted = [], []
    for port in ports:
        if port.device_owner.startswith("network:"):
            continue
        if _is_its_own(port, source):
            own.append(port)
        elif any(_is_pair_of(pair, port, source) for pair in port.allowed_address_pairs):
            granted.append(port)
    if len(own) == 1:
        granted = [port for port in granted if not _grants(port, own[0])]
    return (*own, *granted)


def the_one(found: tuple[Port, ...], source: ClientSource) -> Port:
    """Raises NobodyAsks when it is not exactly one, NotKnownYet when it is one that no instance has yet."""
    if not found:
        raise NoSinglePort("none", f"no instance's port has {source}")
    if len(found) > 1:
        names = ", ".join(sorted(port.id for port in found))
        raise NoSinglePort("several", f"more than one port has {source}: {names}")
    if not is_instance_port(found[0]):
        raise PortNotReady(f"the port {found[0].id} with {source} is not bound to an instance yet")
    return found[0]


def _grants(other: Port, owner: Port) -> bool:
    """Has a project said so of its own ports?"""
    return other.project_id == owner.project_id and other.network_id == owner.network_id


def _is_its_own(port: Port, source: ClientSource) -> bool:
    if port.mac_address.lower() != source.mac:
        return False
    address = source.address
    if isinstance(address, IPv6Address) and address.is_link_local:
        return True
    own = [ip_address(text) for text in port.ip_addresses]
    return address in own or any(_shares_prefix(address, one) for one in own)


def _is_pair_of(pair: AddressPair, port: Port, source: ClientSource) -> bool:
    if (pair.mac_address or port.mac_address).lower() != source.mac:
        return False
    return source.address in ip_network(pair.ip_address, strict=False)


def _shares_prefix(address: Address, own: Address) -> bool:
    if not isinstance(address, IPv6Address) or not isinstance(own, IPv6Address):
        return False
    return int(address) >> _SLAAC_PREFIX_BITS == int(own) >> _SLAAC_PREFIX_BITS


def _macs(port: Port) -> set[str]:
    pairs = {pair.mac_address.lower() for pair in port.allowed_address_pairs if pair.mac_address}
    return pairs | {port.mac_address.lower()}


def _all_touched(gone: list[Port], new: list[Port]) -> frozenset[str]:
    return frozenset(touched for port in (*gone, *new) for touched in _touched(port))


def _touched(port: Port) -> Iterator[str]:
    yield from _macs(port)
    if is_router_interface(port):
        yield port.device_id
