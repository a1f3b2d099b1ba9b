"""The adapters of the metadata agent. `programs/metadata_agent` provides them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from openimds.guest_identity.addresses import Address
from openimds.http.messages import Response
from openimds.resources.network import Port, Subnet

Headers = Sequence[tuple[bytes, bytes]]


class UpstreamAwayError(Exception):
    """The metadata API did not respond. The message has its address and the reason."""


class ControlAwayError(Exception):
    """The control API did not respond."""


class ControlRefusedError(ControlAwayError):
    """The identity service refuses the agent's login. No query is possible before `retry_seconds` have passed."""

    def __init__(self, message: str, retry_seconds: float) -> None:
        super().__init__(message)
        self.retry_seconds = retry_seconds


class Upstream(Protocol):
    """The connection pool to the metadata API."""

    async def request(self, method: str, target: bytes, headers: Headers, body: bytes) -> Response:
        """Sends a request and returns the response. Raises UpstreamAwayError."""


class PortView(Protocol):
    """The ports and subnets as they were at one revision. Mappings by ID."""

    @property
    def revision(self) -> int: ...
    @property
    def ports(self) -> Mapping[str, Port]: ...
    @property
    def subnets(self) -> Mapping[str, Subnet]: ...


class PortMirror(Protocol):
    """The mirror of the cloud's ports and subnets."""

    @property
    def connected(self) -> bool:
        """Whether the last attempt to update the mirror succeeded."""

    @property
    def age_seconds(self) -> float:
        """The maximum age of the mirror's state."""

    def view(self) -> PortView: ...

    def subscribe(self, callback: Callable[[Any], None]) -> None:
        """`callback` receives the current view and each later one, on the mirror's thread."""


class Ports(Protocol):
    """Neutron's lists. Called on a thread. The methods raise ControlAwayError."""

    def ports(self, filters: Mapping[str, str | Sequence[str]]) -> Sequence[Port]: ...
    def subnets(self, filters: Mapping[str, str | Sequence[str]]) -> Sequence[Subnet]: ...


class Neighbours(Protocol):
    """The neighbour tables of this host's namespaces. Called on a thread."""

    def mac_of(self, network_id: str | None, router_id: str | None, address: Address) -> str | None:
        """Returns the MAC of the address in the namespace of this network or router."""
