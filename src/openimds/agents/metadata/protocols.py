"""What the agent needs of others. The daemon brings them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from openimds.guest_identity.addresses import Address
from openimds.http.messages import Response
from openimds.resources.network import Port, Subnet

Headers = Sequence[tuple[bytes, bytes]]


class UpstreamAwayError(Exception):
    """The metadata API did not answer. The sentence says where it was looked for and what happened."""


class ControlAwayError(Exception):
    """The control API could not be asked."""


class Upstream(Protocol):
    """The way to the metadata API."""

    async def ask(self, method: str, target: bytes, headers: Headers, body: bytes) -> Response:
        """Raises UpstreamAwayError."""


class View(Protocol):
    @property
    def revision(self) -> int: ...
    @property
    def ports(self) -> Mapping[str, Port]: ...
    @property
    def subnets(self) -> Mapping[str, Subnet]: ...


class Mirror(Protocol):
    """The copy of the cloud's ports and subnets that the watch keeps up."""

    @property
    def connected(self) -> bool:
        """The newest attempt to keep it up did not fail."""

    @property
    def age_seconds(self) -> float:
        """What it says was true so long ago, or later."""

    def view(self) -> View: ...


class Ports(Protocol):
    """Neutron's own questions. Called on a thread; raise ControlAwayError."""

    def ports(self, filters: Mapping[str, str | Sequence[str]]) -> Sequence[Port]: ...
    def subnets(self, filters: Mapping[str, str | Sequence[str]]) -> Sequence[Subnet]: ...


class Neighbours(Protocol):
    """The neighbour tables of this host's namespaces. Called on a thread."""

    def mac_of(self, network_id: str | None, router_id: str | None, address: Address) -> str | None:
        """The MAC that the namespace of this network or router knows for the address."""
