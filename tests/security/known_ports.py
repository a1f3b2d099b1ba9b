"""The ports that the metadata agent knows: both guests on one network, and one address that is two ports'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.security.cloud import GUESTS, NETWORK, TWICE, Guest

from openimds.guest_identity.addresses import Address
from openimds.resources.network import FixedIP, Port, Subnet


@dataclass
class Ports:
    """The mirror of a cloud in which both guests are on one network, and one address is two ports'."""

    ports: Mapping[str, Port]
    subnets: Mapping[str, Subnet] = field(default_factory=dict)
    revision: int = 1
    connected: bool = True
    age_seconds: float = 0

    def view(self) -> Ports:
        return self

    def mac_of(self, _network_id: str | None, _router_id: str | None, _address: Address) -> str | None:
        return None


class NoMorePorts:
    """The control API knows nothing beyond the mirror."""

    def ports(self, _filters: Mapping[str, str | Sequence[str]]) -> Sequence[Port]:
        return ()

    def subnets(self, _filters: Mapping[str, str | Sequence[str]]) -> Sequence[Subnet]:
        return ()


def ports_of_guests() -> Ports:
    ports = [_port(f"port-{guest.label}", guest, guest.address) for guest in GUESTS]
    ports += [_port(f"twice-{guest.label}", guest, TWICE) for guest in GUESTS]
    return Ports({port.id: port for port in ports})


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
