"""The port mirror of the metadata agent: both guests on one network, and an address of two ports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.security.instances import GUESTS, NETWORK, SHARED_ADDRESS, Guest

from openimds.guest_identity.addresses import Address
from openimds.resources.network import FixedIP, Port, Subnet


@dataclass
class PortMirror:
    """The mirrored ports and subnets."""

    ports: Mapping[str, Port]
    subnets: Mapping[str, Subnet] = field(default_factory=dict)
    revision: int = 1
    connected: bool = True
    age_seconds: float = 0

    def view(self) -> PortMirror:
        return self

    def subscribe(self, callback: Callable[[Any], None]) -> None: ...

    def mac_of(self, _network_id: str | None, _router_id: str | None, _address: Address) -> str | None:
        return None


class EmptyControlApi:
    """A control API without ports and subnets."""

    def ports(self, _filters: Mapping[str, str | Sequence[str]]) -> Sequence[Port]:
        return ()

    def subnets(self, _filters: Mapping[str, str | Sequence[str]]) -> Sequence[Subnet]:
        return ()


def ports_of_guests() -> PortMirror:
    ports = [_port(f"port-{guest.label}", guest, guest.address) for guest in GUESTS]
    ports += [_port(f"twice-{guest.label}", guest, SHARED_ADDRESS) for guest in GUESTS]
    return PortMirror({port.id: port for port in ports})


def _port(port_id: str, guest: Guest, address: str) -> Port:
    return Port(
        id=port_id,
        network_id=NETWORK,
        project_id=guest.project_id,
        mac_address=f"fa:16:3e:00:00:0{guest.number}",
        fixed_ips=(FixedIP("s", address),),
        device_id=guest.uuid,
        device_owner="compute:nova",
    )
