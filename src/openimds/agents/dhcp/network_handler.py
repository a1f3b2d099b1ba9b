"""The DHCP port of this host on a network: found again by what it is called, made where it is missing.

The DHCP agent's trade: a network with DHCP gets its port, its bridge, its namespace, its proxy and its dnsmasq.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import structlog

from openimds.agents.dhcp.dnsmasq_manager import DnsmasqInstance, DnsmasqManager, delete_files
from openimds.agents.ipv6_metadata_address import Ipv6MetadataAddress
from openimds.agents.metadata_proxy import MetadataProxyDriver, NamespaceProbe
from openimds.agents.protocols import CloudView, DaemonManager, NetworkConfigurator, RunProgram
from openimds.agents.provisioning_blocks import ProvisioningApi, ProvisioningBlocks
from openimds.agents.reconciler.reconciler import ErrorCollector
from openimds.netconfig.dhcp_network import (
    DhcpNetwork,
    MetadataOptions,
    dhcp_device_id,
    dhcp_namespace_state,
    network_bridge,
    own_dhcp_port,
    serves_ipv6,
    wanted_fixed_ips,
    wants_dhcp,
)
from openimds.netconfig.dnsmasq_command import DnsmasqPaths, DnsmasqSettings, dnsmasq
from openimds.netconfig.dnsmasq_files import dnsmasq_files, rejected_options
from openimds.netconfig.haproxy import ProxySettings, ProxySpec, network_proxy
from openimds.netconfig.metadata_path import metadata_network_router, metadata_path, needs_proxy
from openimds.netconfig.namespace_state import Daemon, NamespaceState
from openimds.resources.network import DEVICE_OWNER_DHCP, FixedIP, Network, Port, Subnet, dhcp_namespace


class PortsApi(ProvisioningApi, Protocol):
    """The control API, or a real Neutron. Bodies without envelope."""

    def list_ports(self, **filters: Any) -> list[Port]: ...
    def create_port(self, body: Mapping[str, Any]) -> Port: ...
    def update_port(self, port_id: str, body: Mapping[str, Any]) -> Port: ...
    def delete_port(self, port_id: str) -> None: ...


class DhcpPorts:
    """Makes, changes and deletes the DHCP ports of one host. Every method raises the API's errors."""

    def __init__(self, api: PortsApi, host: str) -> None:
        self._api = api
        self._host = host

    def ensure(
        self, network: Network, subnets: Iterable[Subnet], known: Iterable[Port]
    ) -> tuple[Port, tuple[str, ...]]:
        """The port with one address on each DHCP subnet, and what was done for it, in words."""
        subnets = tuple(subnets)
        port = own_dhcp_port(known, self._host, network.id)
        if port is None or wanted_fixed_ips(subnets, port) is not None:
            port = self._listed(network.id)
        fixed_ips = wanted_fixed_ips(subnets, port)
        if port is not None and fixed_ips is None:
            return port, ()
        if port is None:
            port = self._api.create_port(self._body(network, fixed_ips or ()))
            words = f"create DHCP port {port.id} ({', '.join(port.ip_addresses)})"
        else:
            port = self._api.update_port(port.id, {"fixed_ips": _spelled(fixed_ips or ())})
            words = f"change DHCP port {port.id} ({', '.join(port.ip_addresses)})"
        return port, (words,)

    def delete(self, network_id: str, known: Iterable[Port]) -> tuple[str, ...]:
        """Idempotent."""
        port = own_dhcp_port(known, self._host, network_id) or self._listed(network_id)
        if port is None:
            return ()
        self._api.delete_port(port.id)
        return (f"delete DHCP port {port.id}",)

    def _listed(self, network_id: str) -> Port | None:
        """The view may be older than the last pass, or than another run of this agent. The control API is asked instead of a
        memory, because anybody may delete the port there.
        """
        device_id = dhcp_device_id(self._host, network_id)
        found = self._api.list_ports(network_id=network_id, device_owner=DEVICE_OWNER_DHCP, device_id=device_id)
        return own_dhcp_port(found, self._host, network_id)

    def _body(self, network: Network, fixed_ips: Iterable[FixedIP]) -> dict[str, object]:
        return {
            "network_id": network.id,
            "project_id": network.project_id,
            "name": "",
            "admin_state_up": True,
            "device_owner": DEVICE_OWNER_DHCP,
            "device_id": dhcp_device_id(self._host, network.id),
            "binding:host_id": self._host,
            "fixed_ips": _spelled(fixed_ips),
        }


def _spelled(fixed_ips: Iterable[FixedIP]) -> list[dict[str, str]]:
    return [
        {"subnet_id": fixed.subnet_id} | ({"ip_address": fixed.ip_address} if fixed.ip_address else {})
        for fixed in fixed_ips
    ]


logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DhcpSettings:
    """What the DHCP agent is told. May be replaced while it runs."""

    host: str
    state_path: Path
    namespace_prefix: str = ""
    metadata: MetadataOptions
    dnsmasq: DnsmasqSettings
    proxy: ProxySettings
    has_ipv6: bool = True
    """Whether this host's kernel knows IPv6; where not, IPv6 subnets are left out and IPv4 is served."""


@dataclass(frozen=True, slots=True)
class DhcpNetworkSpec:
    """What the control API says of a network. Equal values: nothing has to be done."""

    network: Network
    subnets: tuple[Subnet, ...]
    ports: tuple[Port, ...]
    settings: DhcpSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class _NetworkPlan:
    """What follows from a network's parts and its DHCP port, and from nothing else."""

    parts: DhcpNetworkSpec
    port: Port
    dhcp: DhcpNetwork
    state: NamespaceState
    proxy: ProxySpec | None
    """None: it needs none."""
    served: DnsmasqInstance
    ways: Mapping[str, Mapping[str, object]]
    """To metadata, by subnet: for the heartbeat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DhcpAdapters:
    api: PortsApi
    configurator: NetworkConfigurator
    daemons: DaemonManager
    probe: NamespaceProbe
    run_program: RunProgram


class DhcpNetworkHandler:
    """agents.reconcile.Trade of networks."""

    kind = "network"

    def __init__(self, adapters: DhcpAdapters, settings: DhcpSettings) -> None:
        self.settings = settings
        """Replaced whole; the next full round heeds it."""
        self.report: Mapping[str, Mapping[str, object]] = {}
        """By network: what is true of it. Replaced whole; for the heartbeat."""
        self._kernel = adapters.configurator
        self._own_ports = DhcpPorts(adapters.api, settings.host)
        self._servers = DnsmasqManager(adapters.daemons, adapters.run_program)
        self._proxies = MetadataProxyDriver(adapters.daemons, adapters.probe)
        self._shared_address = Ipv6MetadataAddress(adapters.configurator)
        self._provisioning = ProvisioningBlocks(adapters.api)
        self._idle_bridges: set[str] = set()
        self._plans: dict[str, _NetworkPlan] = {}
        self._warned_options: frozenset[tuple[str, str]] = frozenset()

    # The trade ----------------------------------------------------------------------------------------------------

    def desired(self, view: CloudView) -> Mapping[str, DhcpNetworkSpec]:
        subnets, ports = _by_network(view.subnets.values()), _by_network(view.ports.values())
        return {
            network.id: DhcpNetworkSpec(network, subnets[network.id], ports[network.id], self.settings)
            for network in view.networks.values()
            if wants_dhcp(network, subnets[network.id])
        }

    def actual(self) -> set[str]:
        start = dhcp_namespace("", self.settings.namespace_prefix)
        return {name.removeprefix(start) for name in self._kernel.namespaces() if name.startswith(start)}

    def ensure(self, key: str, wanted: DhcpNetworkSpec) -> Iterable[str]:
        port, words = self._own_ports.ensure(wanted.network, wanted.subnets, wanted.ports)
        plan, settings = self._plan(key, wanted, port), wanted.settings
        dhcp, state, proxy = plan.dhcp, plan.state, plan.proxy
        steps = ErrorCollector()
        steps.do(lambda: (*words, *self._kernel.ensure_bridge(network_bridge(dhcp))))
        steps.do(lambda: self._kernel.apply(state))
        # The proxy first: a guest that has its address asks at once.
        if proxy:
            steps.do(lambda: self._proxies.ensure(proxy, settings.proxy))
        steps.do(lambda: self._servers.ensure(plan.served))
        if not proxy:
            steps.do(lambda: self._proxies.remove(key, state.name, settings.proxy))
        steps.do(lambda: self._shared_address.check(key, state))
        if proxy:
            steps.do(lambda: self._proxies.wait_until_listening(proxy, settings.proxy))
        steps.end()
        self._provisioning.report([dhcp.dhcp_port], "l2")
        self._provisioning.report(_guests(dhcp), "dhcp")
        self._tell(key, self._facts(plan))
        return steps.changes

    def delete(self, key: str, view: CloudView) -> Iterable[str]:
        settings = self.settings
        namespace = dhcp_namespace(key, settings.namespace_prefix)
        paths = DnsmasqPaths.of(settings.state_path, key)
        was_there = namespace in self._kernel.namespaces()
        self._proxies.remove(key, namespace, settings.proxy)
        self._servers.remove(key, _any_dnsmasq(paths, namespace))
        self._kernel.remove_namespace(namespace)
        delete_files(paths)
        self._shared_address.forget(key)
        self._plans.pop(key, None)
        self.report = {network_id: facts for network_id, facts in self.report.items() if network_id != key}
        deleted = self._own_ports.delete(key, (port for port in view.ports.values() if port.network_id == key))
        return ((f"remove {namespace}",) if was_there else ()) + deleted

    def cleanup(self, view: CloudView) -> Iterable[str]:
        """Bridges of networks that are no more, once nothing is plugged into them. Seen idle in two full rounds: the
        view may be older than what another agent of this host has just begun to wire.
        """
        self._provisioning.forget_all_but(view.ports)
        wanted = {network.bridge_name for network in view.networks.values()}
        idle = self._kernel.bridges() - wanted
        removed = [name for name in sorted(idle & self._idle_bridges) if self._kernel.remove_bridge(name)]
        self._idle_bridges = idle - set(removed)
        return [f"remove bridge {name}" for name in removed]

    def pids(self) -> Iterable[int]:
        return [*self._servers.pids, *self._proxies.pids]

    # Parts of it --------------------------------------------------------------------------------------------------

    def _warn_of_options(self, dhcp: DhcpNetwork) -> None:
        refused = frozenset(rejected_options(dhcp))
        for port_id, name in sorted(refused - self._warned_options):
            logger.warning("extra DHCP option is not allowed and is left out", port_id=port_id, option=repr(name)[:64])
        self._warned_options |= refused

    def _plan(self, key: str, wanted: DhcpNetworkSpec, port: Port) -> _NetworkPlan:
        """A network that is as it was has the same."""
        plan = self._plans.get(key)
        if plan is None or plan.parts is not wanted or plan.port != port:
            self._plans[key] = plan = _planned(wanted, port)
            self._warn_of_options(plan.dhcp)
        return plan

    def _tell(self, key: str, facts: Mapping[str, object]) -> None:
        if self.report.get(key) != facts:
            self.report = {**self.report, key: facts}

    def _facts(self, plan: _NetworkPlan) -> Mapping[str, object]:
        return {
            "namespace": plan.state.name,
            "dhcp_port": plan.port.id,
            "addresses": list(plan.dhcp.dhcp_port.ip_addresses),
            "metadata_proxy": plan.proxy is not None,
            "ipv6_metadata_elsewhere": sorted(self._shared_address.elsewhere.get(plan.dhcp.network.id, ())),
            "way_to_metadata": plan.ways,
        }


Thing = TypeVar("Thing", Subnet, Port)


def _by_network(things: Iterable[Thing]) -> Mapping[str, tuple[Thing, ...]]:
    grouped: dict[str, list[Thing]] = defaultdict(list)
    for thing in things:
        grouped[thing.network_id].append(thing)
    found: dict[str, tuple[Thing, ...]] = defaultdict(tuple)
    found.update({key: tuple(sorted(group, key=lambda thing: thing.id)) for key, group in grouped.items()})
    return found


def _with_own_port(parts: DhcpNetworkSpec, own: Port) -> DhcpNetwork:
    others = [port for port in parts.ports if port.id != own.id]
    ports = tuple(sorted([*others, own], key=lambda port: port.id))
    dhcp = DhcpNetwork(network=parts.network, subnets=parts.subnets, ports=ports, dhcp_port=own)
    return dhcp if parts.settings.has_ipv6 else dhcp.without_ipv6()


def _planned(parts: DhcpNetworkSpec, port: Port) -> _NetworkPlan:
    dhcp, settings = _with_own_port(parts, port), parts.settings
    has_proxy = needs_proxy(dhcp, settings.metadata)
    ways = {subnet.id: metadata_path(dhcp, subnet, settings.metadata) for subnet in dhcp.subnets}
    return _NetworkPlan(
        parts=parts,
        port=port,
        dhcp=dhcp,
        state=dhcp_namespace_state(dhcp, has_proxy=has_proxy, namespace_prefix=settings.namespace_prefix),
        proxy=_proxy(dhcp, settings) if has_proxy else None,
        served=_served(dhcp, settings),
        ways={
            subnet_id: {"way": way.way.value, "next_hop": way.next_hop, "reason": way.reason}
            for subnet_id, way in ways.items()
        },
    )


def _proxy(dhcp: DhcpNetwork, settings: DhcpSettings) -> ProxySpec:
    return network_proxy(
        name=dhcp.network.id,
        namespace=dhcp_namespace(dhcp.network.id, settings.namespace_prefix),
        device=dhcp.device_name,
        has_ipv6=serves_ipv6(dhcp),
        router_id=metadata_network_router(dhcp, settings.metadata),
    )


def _served(dhcp: DhcpNetwork, settings: DhcpSettings) -> DnsmasqInstance:
    paths = DnsmasqPaths.of(settings.state_path, dhcp.network.id)
    namespace = dhcp_namespace(dhcp.network.id, settings.namespace_prefix)
    daemon = dnsmasq(dhcp, paths, settings.dnsmasq, namespace)
    return DnsmasqInstance(dhcp, daemon, dnsmasq_files(dhcp, settings.dnsmasq, settings.metadata), paths)


def _any_dnsmasq(paths: DnsmasqPaths, namespace: str) -> Daemon:
    """Enough of it to find it in its namespace: with which subnets it was started nobody knows any more."""
    return Daemon(name="dnsmasq", argv=("dnsmasq",), pid_file=paths.pid, namespace=namespace)


def _guests(dhcp: DhcpNetwork) -> Iterable[Port]:
    """Those that wait for this agent: whoever has an address on a served subnet and is not the network's own."""
    served = {subnet.id for subnet in dhcp.served_subnets}
    return [
        port
        for port in dhcp.ports
        if not port.device_owner.startswith("network:") and any(f.subnet_id in served for f in port.fixed_ips)
    ]
