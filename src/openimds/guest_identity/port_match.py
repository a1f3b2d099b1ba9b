"""The rules by which a port matches the source of a connection, and the values that express a match.

Rules of this file:

1. A port sends from its fixed addresses with its MAC, and from its allowed address pairs with their MACs. Neutron uses
   the port's own MAC for a pair without one.
2. If several ports of one network match, the port that owns the address and the MAC wins over ports of its own project
   that have both as an address pair. A pair of another project's port makes the match ambiguous, because no project may
   decide which documents an instance of another project receives.
3. An IPv6 link-local address is chosen by its sender (RFC 4291, 4941, 7217), so the MAC alone decides. A temporary
   address (RFC 8981) matches if it is in the same /64 as an address of the port.
4. Only exactly one matching port is an identity.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network

from openimds.guest_identity.addresses import Address
from openimds.resources.network import AddressPair, Port

_SLAAC_PREFIX_BITS = 64
_NETWORK_OWNED = "network:"
"""The device owner prefix of a network's own ports (DHCP, routers, floating IPs), which no instance uses."""


class NoSinglePort(Exception):
    """No port of an instance matches, or several do. Later changes cannot resolve this request. The message is for the log."""

    def __init__(self, outcome: str, sentence: str) -> None:
        super().__init__(sentence)
        self.outcome = outcome
        """`none` or `several`."""


class PortNotReady(Exception):
    """The port cannot be resolved now, and the client should retry. The message is for the log."""


class PortLookupRefused(PortNotReady):
    """No lookup is possible before `retry_seconds` have passed, so the request is not held."""

    def __init__(self, sentence: str, retry_seconds: float) -> None:
        super().__init__(sentence)
        self.retry_seconds = retry_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSource:
    """The place that a request comes from. Exactly one of the two IDs is set."""

    network_id: str | None
    router_id: str | None
    address: Address
    mac: str
    """The client's MAC in lower case. Empty if it is unknown."""
    device: str = ""
    """The device on which a link-local address arrived in the router's namespace. Empty if it is unknown."""
    is_mac_from_neighbours: bool = False
    """True if the MAC comes from the namespace's neighbour table instead of the client's packet or address."""

    @property
    def place(self) -> str:
        """The key of the port indexes: the MAC if it is known, else the address."""
        return self.mac or str(self.address)

    @property
    def watch_keys(self) -> tuple[object, ...]:
        """The keys of `PortIndex.update` after which this source may match another port."""
        return ((self.network_id, self.place),) if self.network_id else (self.place, self.router_id)

    @property
    def is_link_local(self) -> bool:
        return self.address.version == 6 and self.address.is_link_local

    def __str__(self) -> str:
        where = f"network {self.network_id}" if self.network_id else f"router {self.router_id}"
        return f"{self.address} with MAC {self.mac} on {where}" if self.mac else f"{self.address} on {where}"


@dataclass(slots=True, eq=False)
class Binding:
    """The port of a source, valid until a change that may affect the match."""

    source: ClientSource
    port: Port
    is_valid: bool = True
    """False if the binding is for one request only, or has ended. It never becomes True again."""


def source_of(listener: str, address: Address, mac: str, device: str = "") -> ClientSource:
    """Returns the source of a client on the listener `network:<id>` or `router:<id>`. Raises ValueError for any other.

    The device is ignored on a network's listener, since the network is known.
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


def is_instance_port(port: Port) -> bool:
    """Returns whether an instance can use the port."""
    return bool(port.device_id) and not is_network_owned(port)


def is_network_owned(port: Port) -> bool:
    return port.device_owner.startswith(_NETWORK_OWNED)


def matching(ports: Iterable[Port], source: ClientSource) -> tuple[Port, ...]:
    """Returns the ports that may send from the source's address and MAC, out of ports on the networks of the source."""
    own, granted = [], []
    for port in ports:
        if is_network_owned(port):
            continue
        if _is_its_own(port, source):
            own.append(port)
        elif any(_is_pair_of(pair, port, source) for pair in port.allowed_address_pairs):
            granted.append(port)
    if len(own) == 1:
        granted = [port for port in granted if not _grants(port, own[0])]
    return (*own, *granted)


def the_one(found: tuple[Port, ...], source: ClientSource) -> Port:
    """Returns the only port. Raises NoSinglePort for none or several, PortNotReady for one without an instance."""
    if not found:
        raise NoSinglePort("none", f"no instance's port has {source}")
    if len(found) > 1:
        names = ", ".join(sorted(port.id for port in found))
        raise NoSinglePort("several", f"more than one port has {source}: {names}")
    if not is_instance_port(found[0]):
        raise PortNotReady(f"the port {found[0].id} with {source} is not bound to an instance yet")
    return found[0]


def _grants(other: Port, owner: Port) -> bool:
    """Returns whether the address pair of `other` is a statement of the owner's project."""
    return other.project_id == owner.project_id and other.network_id == owner.network_id


def _is_its_own(port: Port, source: ClientSource) -> bool:
    if port.mac_address.lower() != source.mac:
        return False
    if source.is_link_local:
        return True
    own = [ip_address(text) for text in port.ip_addresses]
    return source.address in own or any(_shares_prefix(source.address, one) for one in own)


def _is_pair_of(pair: AddressPair, port: Port, source: ClientSource) -> bool:
    if (pair.mac_address or port.mac_address).lower() != source.mac:
        return False
    return source.address in ip_network(pair.ip_address, strict=False)


def _shares_prefix(address: Address, own: Address) -> bool:
    if not isinstance(address, IPv6Address) or not isinstance(own, IPv6Address):
        return False
    return int(address) >> _SLAAC_PREFIX_BITS == int(own) >> _SLAAC_PREFIX_BITS
