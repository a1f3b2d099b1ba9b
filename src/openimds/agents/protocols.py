"""What an agent needs of its copy of the control API's state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from openimds.resources.network import FloatingIP, Network, Port, Router, Subnet
from openimds.resources.server import Server


class CloudView(Protocol):
    """The state as it was at one revision. Mappings by id."""

    @property
    def revision(self) -> int:
        """Negative: nothing is known yet."""

    @property
    def networks(self) -> Mapping[str, Network]: ...
    @property
    def subnets(self) -> Mapping[str, Subnet]: ...
    @property
    def ports(self) -> Mapping[str, Port]: ...
    @property
    def routers(self) -> Mapping[str, Router]: ...
    @property
    def floating_ips(self) -> Mapping[str, FloatingIP]: ...
    @property
    def servers(self) -> Mapping[str, Server]: ...


class CloudMirror(Protocol):
    def view(self) -> CloudView: ...

    def subscribe(self, callback: Callable[[object], None], /) -> None:
        """`callback` is called with every new view, on a thread of the mirror's."""
