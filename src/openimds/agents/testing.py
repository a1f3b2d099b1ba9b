"""In-memory adapters of the DHCP, L3 and compute agents for tests. Tests compare their text form (`str`)."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from openimds.agents.protocols import DadState
from openimds.netconfig.haproxy import ProxySpec
from openimds.netconfig.listener_file import ListenAddress
from openimds.netconfig.namespace_state import Bridge, Daemon, NamespaceState
from openimds.netconfig.netns_instance import BootSpec, BootState
from openimds.netconfig.port_security import PortFilter
from openimds.resources.network import FixedIP, FloatingIP, Network, Port, Router, Subnet
from openimds.resources.server import Server


@dataclass
class FakeView:
    """A mutable CloudView: a test adds and removes resources."""

    revision: int = 1
    networks: dict[str, Network] = field(default_factory=dict)
    subnets: dict[str, Subnet] = field(default_factory=dict)
    ports: dict[str, Port] = field(default_factory=dict)
    routers: dict[str, Router] = field(default_factory=dict)
    floating_ips: dict[str, FloatingIP] = field(default_factory=dict)
    servers: dict[str, Server] = field(default_factory=dict)
    is_trusted: bool = True

    def add(self, *resources: Network | Subnet | Port | Router | FloatingIP | Server) -> None:
        """Adds resources, or replaces those with the same id."""
        for resource in resources:
            self._table(resource)[resource.id] = resource
        self.revision += 1

    def remove(self, *resources: Network | Subnet | Port | Router | FloatingIP | Server) -> None:
        for resource in resources:
            self._table(resource).pop(resource.id, None)
        self.revision += 1

    def _table(self, resource: object) -> dict[str, Any]:
        tables: dict[type, dict[str, Any]] = {
            Network: self.networks,
            Subnet: self.subnets,
            Port: self.ports,
            Router: self.routers,
            FloatingIP: self.floating_ips,
            Server: self.servers,
        }
        return tables[type(resource)]


class FakeMirror:
    def __init__(self, view: FakeView) -> None:
        self._view = view
        self._callbacks: list[Callable[[object], None]] = []

    def view(self) -> FakeView:
        return self._view

    def subscribe(self, callback: Callable[[object], None], /) -> None:
        self._callbacks.append(callback)

    def notify(self) -> None:
        """Calls the subscribers."""
        for callback in self._callbacks:
            callback(self._view)


class FakePortsApi:
    """The ports of the control API, written directly into a view. Allocates the lowest free address."""

    def __init__(self, view: FakeView, first: int = 1) -> None:
        """`first`: the number of the first port. The name of a tap contains the number, and must be unique on the host."""
        self._view = view
        self._ports: dict[str, Port] = {}
        """The created ports. The view may be older."""
        self._numbers = itertools.count(first)
        self.calls: list[str] = []
        self.broken = False
        """Whether every call fails."""

    def list_ports(self, **filters: Any) -> list[Port]:
        self._call(f"list ports {sorted(filters)}")
        ports = {**self._ports, **self._view.ports}
        return [p for p in ports.values() if all(getattr(p, key) == value for key, value in filters.items())]

    def create_port(self, body: Mapping[str, Any]) -> Port:
        self._call(f"create port {body['device_owner']} on {body['network_id']}")
        number = next(self._numbers)
        port = Port(
            id=f"{number:08x}-0000-4000-8000-0000000000dc",
            network_id=body["network_id"],
            project_id=body["project_id"],
            mac_address=f"fa:16:3e:dc:00:{number % 256:02x}",
            fixed_ips=self._allocated(body["fixed_ips"]),
            device_id=body["device_id"],
            device_owner=body["device_owner"],
            host=body["binding:host_id"],
        )
        self._put(port)
        return port

    def update_port(self, port_id: str, body: Mapping[str, Any]) -> Port:
        self._call(f"update port {port_id}")
        current = self._view.ports.get(port_id) or self._ports[port_id]
        port = replace(current, fixed_ips=self._allocated(body["fixed_ips"]))
        self._put(port)
        return port

    def delete_port(self, port_id: str) -> None:
        self._call(f"delete port {port_id}")
        self._view.ports.pop(port_id, None)
        self._ports.pop(port_id, None)

    def _put(self, port: Port) -> None:
        self._ports[port.id] = port
        self._view.add(port)

    def port_provisioned(self, port_id: str, entity: str, binding_generation: int | None = None) -> None:
        self._call(f"port {port_id} has {entity}")

    def __str__(self) -> str:
        return "\n".join(self.calls)

    def _call(self, call: str) -> None:
        if self.broken:
            raise ConnectionError("the control API is away")
        self.calls.append(call)

    def _allocated(self, desired: Iterable[Mapping[str, str]]) -> tuple[FixedIP, ...]:
        return tuple(
            FixedIP(fixed["subnet_id"], fixed.get("ip_address") or self._free_address(fixed["subnet_id"]))
            for fixed in desired
        )

    def _free_address(self, subnet_id: str) -> str:
        taken = {fixed.ip_address for port in self._view.ports.values() for fixed in port.fixed_ips}
        start = self._view.subnets[subnet_id].cidr.split("/")[0]
        prefix = start if ":" in start else start.rsplit(".", 1)[0] + "."
        return next(f"{prefix}{n}" for n in range(2, 250) if f"{prefix}{n}" not in taken)


class FakeNetworkConfigurator:
    """Records the desired states, and reports the changes between them."""

    def __init__(self) -> None:
        self.states: dict[str, NamespaceState] = {}
        self.made_bridges: set[str] = set()
        self.plugged_bridges: set[str] = set()
        """The bridges that cannot be removed, because a device of another program is attached."""
        self.taps: set[str] = set()
        """The taps of other programs."""
        self.plugged: dict[str, str] = {}
        """The bridge of each plugged tap."""
        self.dad_states: dict[str, DadState] = {}
        """The state of duplicate address detection for fe80::a9fe:a9fe, by namespace. Absent if there is no duplicate."""
        self.dad_restarts: list[str] = []
        """The namespaces of the restarts."""

    def namespaces(self) -> set[str]:
        return set(self.states)

    def apply(self, desired: NamespaceState) -> tuple[str, ...]:
        old = self.states.get(desired.name)
        self.states[desired.name] = desired
        if old == desired:
            return ()
        return (f"change {desired.name}",) if old else (f"create {desired.name}",)

    def remove_namespace(self, name: str) -> None:
        self.states.pop(name, None)

    def ensure_bridge(self, bridge: Bridge) -> tuple[str, ...]:
        if bridge.name in self.made_bridges:
            return ()
        self.made_bridges.add(bridge.name)
        return (f"create bridge {bridge.name}",)

    def remove_bridge(self, name: str) -> bool:
        if name in self.plugged_bridges:
            return False
        self.made_bridges.discard(name)
        return True

    def bridges(self) -> set[str]:
        return set(self.made_bridges)

    def plug(self, host_name: str, bridge: str) -> bool:
        if host_name in self.taps:
            self.plugged[host_name] = bridge
        return host_name in self.taps

    def unplug(self, host_name: str) -> tuple[str, ...]:
        return (f"unplug {host_name}",) if self.plugged.pop(host_name, None) else ()

    def own_devices(self, names: Collection[str]) -> set[str]:
        return set(names) & {device.host_name for state in self.states.values() for device in state.devices}

    def dad_state(self, namespace: str, device: str, interface: str) -> DadState | None:
        return self.dad_states.get(namespace)

    def restart_dad(self, namespace: str, device: str, interface: str) -> None:
        self.dad_restarts.append(namespace)

    def __str__(self) -> str:
        """Returns one line for each namespace: `qdhcp-…: tap…(192.168.40.2/24)`."""
        return "\n".join(f"{name}: {_devices(state)}" for name, state in sorted(self.states.items()))


def _devices(state: NamespaceState) -> str:
    return " ".join(f"{device.name}({' '.join(sorted(device.addresses or ()))})" for device in state.devices)


@dataclass(frozen=True)
class FakeNamespaceSnapshot:
    inode: int
    device_indexes: Mapping[str, int]
    listening: Mapping[tuple[str, int], frozenset[int]]
    has_ipv6: bool


class FakeNamespaceProbe:
    """A NamespaceProbe with the same listening sockets in each namespace."""

    def __init__(self) -> None:
        self.inode = 4026532257
        self.sockets_at: dict[tuple[str, int], frozenset[int]] = {}
        """The listening sockets, by (address, port)."""
        self.sockets: dict[int, frozenset[int]] = {}
        """The sockets of each process, by PID."""
        self.accepts_connections = True
        self.has_ipv6 = True

    def listen(self, proxy: ProxySpec, pid: int) -> None:
        """Opens a socket of the process at each of the proxy's addresses."""
        addresses = [(address.host, address.port) for address in proxy.addresses]
        opened = {address: frozenset({pid * 100 + number}) for number, address in enumerate(addresses)}
        self.sockets_at |= {key: self.sockets_at.get(key, frozenset()) | sockets for key, sockets in opened.items()}
        self.sockets[pid] = self.sockets.get(pid, frozenset()).union(*opened.values())

    def snapshot(self, namespace: str, addresses: Collection[ListenAddress]) -> FakeNamespaceSnapshot:
        devices = {address.device for address in addresses if address.device}
        queried = {(address.host, address.port) for address in addresses}
        listening = {key: frozenset({min(inodes)}) for key, inodes in self.sockets_at.items() if key in queried}
        return FakeNamespaceSnapshot(self.inode, dict.fromkeys(devices, 2), listening, self.has_ipv6)

    def listening_sockets(self, namespace: str) -> Mapping[tuple[str, int], frozenset[int]]:
        return self.sockets_at

    def can_connect(self, namespace: str, address: ListenAddress, mark: int) -> bool:
        return self.accepts_connections

    def sockets_of(self, pid: int) -> frozenset[int]:
        return self.sockets.get(pid, frozenset())


class AlwaysListeningProbe(FakeNamespaceProbe):
    """A probe that finds each queried address listening, in each process."""

    def snapshot(self, namespace: str, addresses: Collection[ListenAddress]) -> FakeNamespaceSnapshot:
        self.sockets_at |= dict.fromkeys([(address.host, address.port) for address in addresses], frozenset({1}))
        return super().snapshot(namespace, addresses)

    def sockets_of(self, pid: int) -> frozenset[int]:
        return frozenset({1})


class FakeDaemonManager:
    """Records the started daemons, and the commands of `run`."""

    def __init__(self) -> None:
        self._pids = itertools.count(100)
        self.alive: dict[Daemon, int] = {}
        self.events: list[str] = []

    def running_pid(self, daemon: Daemon) -> int | None:
        return self.alive.get(daemon)

    def start(self, daemon: Daemon) -> int:
        self.alive[daemon] = next(self._pids)
        daemon.pid_file.parent.mkdir(parents=True, exist_ok=True)
        daemon.pid_file.write_text(f"{self.alive[daemon]}\n")
        self.events.append(f"start {daemon.name} in {daemon.namespace}")
        return self.alive[daemon]

    def stop(self, daemon: Daemon) -> None:
        if self.alive.pop(daemon, None):
            self.events.append(f"stop {daemon.name} in {daemon.namespace}")

    def send_signal(self, daemon: Daemon, sent: signal.Signals) -> bool:
        self.events.append(f"{sent.name} to {daemon.name} in {daemon.namespace}")
        return daemon in self.alive

    def stop_stale(self, daemon: Daemon) -> None:
        for other in [other for other in self.alive if _is_stray(other, daemon)]:
            self.stop(other)

    def run(self, argv: Sequence[str], *, namespace: str | None = None) -> str:
        self.events.append(f"{' '.join(argv)} in {namespace}")
        return ""

    def __str__(self) -> str:
        return "\n".join(self.events)


def _is_stray(other: Daemon, daemon: Daemon) -> bool:
    return other != daemon and other.namespace == daemon.namespace and other.name == daemon.name


class ApiError(Exception):
    """The client's error. `status` is the HTTP status, and None without a response."""

    def __init__(self, status: int | None) -> None:
        super().__init__(f"the control API answered {status}")
        self.status = status


@dataclass
class FakeServersApi:
    """Records the reports. A provisioned port becomes ACTIVE in the view, unless `waits_for_dhcp`."""

    view: FakeView
    waits_for_dhcp: bool = False
    status: int | None = 204
    """The status of each response; None if no response arrives."""
    reports: list[str] = field(default_factory=list)
    generations: list[tuple[str, int | None]] = field(default_factory=list)
    """The (report, binding generation) of each report about a port."""
    consoles: dict[str, str] = field(default_factory=dict)

    def port_provisioned(self, port_id: str, entity: str, binding_generation: int | None = None) -> None:
        self._record(f"port {port_id[:8]} has {entity}")
        self.generations.append((entity, binding_generation))
        if not self.waits_for_dhcp:
            self.view.add(replace(self.view.ports[port_id], status="ACTIVE"))

    def port_unplugged(self, port_id: str, binding_generation: int | None = None) -> None:
        self._record(f"port {port_id[:8]} is unplugged")
        self.generations.append(("unplugged", binding_generation))

    def report_server(
        self, server_id: str, *, boot_generation: int, power_state: str, fault: str | None = None
    ) -> None:
        self._record(f"boot {boot_generation} of {server_id} is {power_state}" + (f": {fault}" if fault else ""))

    def put_console(self, server_id: str, text: str) -> None:
        self._record(f"console of {server_id}: {len(text)} characters")
        self.consoles[server_id] = text

    def _record(self, report: str) -> None:
        if self.status != 204:
            raise ApiError(self.status)
        self.reports.append(report)

    def __str__(self) -> str:
        return "\n".join(self.reports)


class FakePortSecurity:
    def __init__(self) -> None:
        self.filters: dict[str, PortFilter] = {}

    def ensure(self, desired: PortFilter) -> tuple[str, ...]:
        if self.filters.get(desired.tap) == desired:
            return ()
        self.filters[desired.tap] = desired
        return (f"set port security of {desired.tap}",)

    def remove(self, tap: str) -> tuple[str, ...]:
        return (f"remove port security of {tap}",) if self.filters.pop(tap, None) else ()

    def taps(self) -> set[str]:
        return set(self.filters)

    def apply(self, desired: Iterable[PortFilter], kept: Collection[str] = ()) -> tuple[str, ...]:
        filters = list(desired)
        undesired = set(self.filters) - {filter_.tap for filter_ in filters} - set(kept)
        changes = [change for filter_ in filters for change in self.ensure(filter_)]
        return (*changes, *(change for tap in sorted(undesired) for change in self.remove(tap)))


class FakeComputeDriver:
    """A driver without instances. The consoles are files in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.states: dict[str, BootState] = {}
        self.boots: list[BootSpec] = []
        self.irremovable: set[str] = set()
        """The servers whose removal fails."""
        self.broken: str | None = None
        """The reason why `start` fails; None if it succeeds."""

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
        state = self.states.get(server_id)
        if state is None or not state.running:
            return False
        self.states[server_id] = BootState(state.generation, running=False)
        return True

    def forget_boot(self, server_id: str) -> None:
        self.states.pop(server_id, None)

    def remove(self, server_id: str) -> None:
        if server_id in self.irremovable:
            raise RuntimeError("the server cannot be removed")
        self.states.pop(server_id, None)

    def console_file(self, server_id: str) -> Path:
        return self._folder / server_id
