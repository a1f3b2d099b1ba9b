"""The compute agent's edges, in memory. They print themselves as text, and tests expect that text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from openimds.agents.testing import FakeView
from openimds.netconfig.netns_instance import BootSpec, BootState
from openimds.netconfig.port_security import PortFilter


class ApiError(Exception):
    """As the client's: with the HTTP status, if there was an answer."""

    def __init__(self, status: int | None) -> None:
        super().__init__(f"the control API answered {status}")
        self.status = status


@dataclass
class FakeServersApi:
    """Notes what it is told; a port that is provisioned turns ACTIVE in the view unless it `waits_for_dhcp`."""

    view: FakeView
    waits_for_dhcp: bool = False
    status: int | None = 204
    """What it answers; None: nothing at all."""
    said: list[str] = field(default_factory=list)
    generations: list[tuple[str, int | None]] = field(default_factory=list)
    """(report, binding generation) of each report about a port."""
    consoles: dict[str, str] = field(default_factory=dict)

    def port_provisioned(self, port_id: str, entity: str, binding_generation: int | None = None) -> None:
        self._hear(f"port {port_id[:8]} has {entity}")
        self.generations.append((entity, binding_generation))
        if not self.waits_for_dhcp:
            self.view.add(replace(self.view.ports[port_id], status="ACTIVE"))

    def port_unplugged(self, port_id: str, binding_generation: int | None = None) -> None:
        self._hear(f"port {port_id[:8]} is unplugged")
        self.generations.append(("unplugged", binding_generation))

    def report_server(
        self, server_id: str, *, boot_generation: int, power_state: str, fault: str | None = None
    ) -> None:
        self._hear(f"boot {boot_generation} of {server_id} is {power_state}" + (f": {fault}" if fault else ""))

    def put_console(self, server_id: str, text: str) -> None:
        self._hear(f"console of {server_id}: {len(text)} characters")
        self.consoles[server_id] = text

    def _hear(self, what: str) -> None:
        if self.status != 204:
            raise ApiError(self.status)
        self.said.append(what)

    def __str__(self) -> str:
        return "\n".join(self.said)


class FakePortSecurity:
    def __init__(self) -> None:
        self.filters: dict[str, PortFilter] = {}

    def ensure(self, wanted: PortFilter) -> tuple[str, ...]:
        if self.filters.get(wanted.tap) == wanted:
            return ()
        self.filters[wanted.tap] = wanted
        return (f"set port security of {wanted.tap}",)

    def remove(self, tap: str) -> tuple[str, ...]:
        return (f"remove port security of {tap}",) if self.filters.pop(tap, None) else ()

    def taps(self) -> set[str]:
        return set(self.filters)

    def apply(self, wanted: Iterable[PortFilter]) -> tuple[str, ...]:
        ports = list(wanted)
        gone = set(self.filters) - {one.tap for one in ports}
        return tuple(word for one in ports for word in self.ensure(one)) + tuple(
            word for tap in sorted(gone) for word in self.remove(tap)
        )


class FakeGuests:
    """Guests whose consoles are files in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.states: dict[str, BootState] = {}
        self.boots: list[BootSpec] = []
        self.broken: str | None = None
        """Why no guest starts."""

    def servers(self) -> set[str]:
        return set(self.states)

    def state(self, server_id: str) -> BootState | None:
        return self.states.get(server_id)

    def pids(self) -> set[int]:
        return set()

    def start(self, boot: BootSpec) -> None:
        if self.broken:
            raise RuntimeError(self.broken)
        self.boots.append(boot)
        self.states[boot.server_id] = BootState(boot.generation, running=True)

    def stop(self, server_id: str) -> bool:
        found = self.states.get(server_id)
        if found is None or not found.running:
            return False
        self.states[server_id] = BootState(found.generation, running=False)
        return True

    def forget_boot(self, server_id: str) -> None:
        self.states.pop(server_id, None)

    def remove(self, server_id: str) -> None:
        self.states.pop(server_id, None)

    def console_file(self, server_id: str) -> Path:
        return self._folder / server_id
