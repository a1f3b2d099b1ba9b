"""The resource handler of networks with DHCP: their DHCP port, bridge, namespace, metadata proxy and dnsmasq.

The DHCP port of this host is found by its device id, and created if it is missing.
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
    desired_fixed_ips,
    dhcp_device_id,
    dhcp_namespace_state,
    needs_dhcp,
    network_bridge,
    own_dhcp_port,
    serves_ipv6,
)
from openimds.netconfig.dnsmasq_command import DnsmasqPaths, DnsmasqSettings, dnsmasq
from openimds.netconfig.dnsmasq_files import dnsmasq_files, rejected_options
from openimds.netconfig.haproxy import ProxySettings, ProxySpec, network_proxy
from openimds.netconfig.metadata_path import metadata_network_router, metadata_path, needs_proxy
from openimds.netconfig.namespace_state import Daemon, NamespaceState
from openimds.resources.network import DEVICE_OWNER_DHCP, FixedIP, Network, Port, Subnet, dhcp_namespace

logger = structlog.get_logger(__name__)


class PortsApi(ProvisioningApi, Protocol):
    """The ports of the control API or of Neutron. Bodies have no envelope."""

    def list_ports(self, **filters: Any) -> list[Port]: ...
    def create_port(self, body: Mapping[str, Any]) -> Port: ...
    def update_port(self, port_id: str, body: Mapping[str, Any]) -> Port: ...
    def delete_port(self, port_id: str) -> None: ...


class DhcpPorts:
    """Creates, updates and deletes the DHCP ports of one host. Each method raises the API's errors."""

    def __init__(self, api: PortsApi, host: str) -> None:
        self._api = api
        self._host = host

    def ensure(
        self, network: Network, subnets: Iterable[Subnet], ports: Iterable[Port]
    ) -> tuple[Port, tuple[str, ...]]:
        """Returns the port with one address on each DHCP subnet, and a description of each change."""
        subnets = tuple(subnets)
        port = own_dhcp_port(ports, self._host, network.id)
        if port is None or desired_fixed_ips(subnets, port) is not None:
            port = self._listed(network.id)
        fixed_ips = desired_fixed_ips(subnets, port)
        if port is not None and fixed_ips is None:
            return port, ()
        if port is None:
            port = self._api.create_port(self._body(network, fixed_ips or ()))
            change = f"create DHCP port {port.id} ({', '.join(port.ip_addresses)})"
        else:
            port = self._api.update_port(port.id, {"fixed_ips": _fixed_ips_body(fixed_ips or ())})
            change = f"change DHCP port {port.id} ({', '.join(port.ip_addresses)})"
        return port, (change,)

    def delete(self, network_id: str, ports: Iterable[Port]) -> tuple[str, ...]:
        """Deletes the port. Idempotent."""
        port = own_dhcp_port(ports, self._host, network_id) or self._listed(network_id)
        if port is None:
            return ()
        self._api.delete_port(port.id)
        return (f"delete DHCP port {port.id}",)

    def _listed(self, network_id: str) -> Port | None:
        """Lists the port from the API, because the view may be older than the last pass or the last run of this agent.

        A cache would not do, because other clients may delete the port.
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
            "fixed_ips": _fixed_ips_body(fixed_ips),
        }


def _fixed_ips_body(fixed_ips: Iterable[FixedIP]) -> list[dict[str, str]]:
    return [
        {"subnet_id": fixed.subnet_id} | ({"ip_address": fixed.ip_address} if fixed.ip_address else {})
        for fixed in fixed_ips
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class DhcpSettings:
    """The settings of the DHCP agent. A reload replaces them."""

    host: str
    state_path: Path
    namespace_prefix: str = ""
    metadata: MetadataOptions
    dnsmasq: DnsmasqSettings
    proxy: ProxySettings
    has_ipv6: bool = True
    """Whether the kernel supports IPv6. If not, the agent serves only IPv4 subnets."""


@dataclass(frozen=True, slots=True)
class DhcpNetworkSpec:
    """The desired state of a network, from the control API. Equal values mean that nothing has to be done."""

    network: Network
    subnets: tuple[Subnet, ...]
    ports: tuple[Port, ...]
    settings: DhcpSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class _NetworkPlan:
    """The configuration derived from a network's spec and its DHCP port."""

    spec: DhcpNetworkSpec
    port: Port
    dhcp: DhcpNetwork
    state: NamespaceState
    proxy: ProxySpec | None
    """None if the network needs no proxy."""
    dnsmasq: DnsmasqInstance
    metadata_paths: Mapping[str, Mapping[str, object]]
    """The path to the metadata service of each subnet, for the heartbeat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DhcpAdapters:
    api: PortsApi
    configurator: NetworkConfigurator
    daemons: DaemonManager
    probe: NamespaceProbe
    run_program: RunProgram


class DhcpNetworkHandler:
    """The ResourceHandler of networks."""

    kind = "network"

    def __init__(self, adapters: DhcpAdapters, settings: DhcpSettings) -> None:
        self.settings = settings
        """The current settings. Replaced as a whole; the next resync applies them."""
        self.report: Mapping[str, Mapping[str, object]] = {}
        """The facts about each network, for the heartbeat. Replaced as a whole."""
        self._configurator = adapters.configurator
        self._dhcp_ports = DhcpPorts(adapters.api, settings.host)
        self._dnsmasq = DnsmasqManager(adapters.daemons, adapters.run_program)
        self._proxies = MetadataProxyDriver(adapters.daemons, adapters.probe)
        self._ipv6_address = Ipv6MetadataAddress(adapters.configurator)
        self._provisioning = ProvisioningBlocks(adapters.api)
        self._idle_bridges: set[str] = set()
        self._plans: dict[str, _NetworkPlan] = {}
        self._logged_options: frozenset[tuple[str, str]] = frozenset()

    def desired(self, view: CloudView) -> Mapping[str, DhcpNetworkSpec]:
        subnets, ports = _by_network(view.subnets.values()), _by_network(view.ports.values())
        return {
            network.id: DhcpNetworkSpec(network, subnets[network.id], ports[network.id], self.settings)
            for network in view.networks.values()
            if needs_dhcp(network, subnets[network.id])
        }

    def actual(self) -> set[str]:
        prefix = dhcp_namespace("", self.settings.namespace_prefix)
        return {name.removeprefix(prefix) for name in self._configurator.namespaces() if name.startswith(prefix)}

    def ensure(self, key: str, desired: DhcpNetworkSpec) -> Iterable[str]:
        port, port_changes = self._dhcp_ports.ensure(desired.network, desired.subnets, desired.ports)
        plan, settings = self._plan(key, desired, port), desired.settings
        dhcp, state, proxy = plan.dhcp, plan.state, plan.proxy
        steps = ErrorCollector()
        steps.run(lambda: (*port_changes, *self._configurator.ensure_bridge(network_bridge(dhcp))))
        steps.run(lambda: self._configurator.apply(state))
        # The proxy starts before dnsmasq, because an instance requests metadata as soon as it has an address.
        if proxy:
            steps.run(lambda: self._proxies.ensure(proxy, settings.proxy))
        steps.run(lambda: self._dnsmasq.ensure(plan.dnsmasq))
        if not proxy:
            steps.run(lambda: self._proxies.remove(key, state.name, settings.proxy))
        steps.run(lambda: self._ipv6_address.check(key, state))
        if proxy:
            steps.run(lambda: self._proxies.wait_until_listening(proxy, settings.proxy))
        steps.raise_errors()
        self._provisioning.report([dhcp.dhcp_port], "l2")
        self._provisioning.report(_instance_ports(dhcp), "dhcp")
        self._update_report(key, self._facts(plan))
        return steps.changes

    def delete(self, key: str, view: CloudView) -> Iterable[str]:
        settings = self.settings
        namespace = dhcp_namespace(key, settings.namespace_prefix)
        paths = DnsmasqPaths.of(settings.state_path, key)
        existed = namespace in self._configurator.namespaces()
        self._proxies.remove(key, namespace, settings.proxy)
        self._dnsmasq.remove(key, _any_dnsmasq(paths, namespace))
        self._configurator.remove_namespace(namespace)
        delete_files(paths)
        self._ipv6_address.forget(key)
        self._plans.pop(key, None)
        self.report = {network_id: facts for network_id, facts in self.report.items() if network_id != key}
        deleted = self._dhcp_ports.delete(key, (port for port in view.ports.values() if port.network_id == key))
        return ((f"remove {namespace}",) if existed else ()) + deleted

    def cleanup(self, view: CloudView) -> Iterable[str]:
        """Removes the bridges of deleted networks that have no devices.

        A bridge is removed when it is idle in two resyncs, because the view may be older than the network for which
        another agent of this host has just created it.
        """
        self._provisioning.forget_all_but(view.ports)
        desired = {network.bridge_name for network in view.networks.values()}
        idle = self._configurator.bridges() - desired
        removed = [name for name in sorted(idle & self._idle_bridges) if self._configurator.remove_bridge(name)]
        self._idle_bridges = idle - set(removed)
        return [f"remove bridge {name}" for name in removed]

    def pids(self) -> Iterable[int]:
        return [*self._dnsmasq.pids, *self._proxies.pids]

    def _log_rejected_options(self, dhcp: DhcpNetwork) -> None:
        rejected = frozenset(rejected_options(dhcp))
        for port_id, name in sorted(rejected - self._logged_options):
            logger.warning("extra DHCP option rejected", port_id=port_id, option=repr(name)[:64])
        self._logged_options |= rejected

    def _plan(self, key: str, desired: DhcpNetworkSpec, port: Port) -> _NetworkPlan:
        """Returns the plan, from the cache if neither the spec nor the DHCP port has changed."""
        plan = self._plans.get(key)
        if plan is None or plan.spec is not desired or plan.port != port:
            self._plans[key] = plan = _derive_plan(desired, port)
            self._log_rejected_options(plan.dhcp)
        return plan

    def _update_report(self, key: str, facts: Mapping[str, object]) -> None:
        if self.report.get(key) != facts:
            self.report = {**self.report, key: facts}

    def _facts(self, plan: _NetworkPlan) -> Mapping[str, object]:
        return {
            "namespace": plan.state.name,
            "dhcp_port": plan.port.id,
            "addresses": list(plan.dhcp.dhcp_port.ip_addresses),
            "metadata_proxy": plan.proxy is not None,
            "ipv6_metadata_elsewhere": sorted(self._ipv6_address.duplicates.get(plan.dhcp.network.id, ())),
            "way_to_metadata": plan.metadata_paths,
        }


Resource = TypeVar("Resource", Subnet, Port)


def _by_network(resources: Iterable[Resource]) -> Mapping[str, tuple[Resource, ...]]:
    groups: dict[str, list[Resource]] = defaultdict(list)
    for resource in resources:
        groups[resource.network_id].append(resource)
    by_network: dict[str, tuple[Resource, ...]] = defaultdict(tuple)
    by_network.update({key: tuple(sorted(group, key=lambda item: item.id)) for key, group in groups.items()})
    return by_network


def _dhcp_network(spec: DhcpNetworkSpec, dhcp_port: Port) -> DhcpNetwork:
    others = [port for port in spec.ports if port.id != dhcp_port.id]
    ports = tuple(sorted([*others, dhcp_port], key=lambda port: port.id))
    dhcp = DhcpNetwork(network=spec.network, subnets=spec.subnets, ports=ports, dhcp_port=dhcp_port)
    return dhcp if spec.settings.has_ipv6 else dhcp.without_ipv6()


def _derive_plan(spec: DhcpNetworkSpec, port: Port) -> _NetworkPlan:
    dhcp, settings = _dhcp_network(spec, port), spec.settings
    has_proxy = needs_proxy(dhcp, settings.metadata)
    paths = {subnet.id: metadata_path(dhcp, subnet, settings.metadata) for subnet in dhcp.subnets}
    return _NetworkPlan(
        spec=spec,
        port=port,
        dhcp=dhcp,
        state=dhcp_namespace_state(dhcp, has_proxy=has_proxy, namespace_prefix=settings.namespace_prefix),
        proxy=_proxy(dhcp, settings) if has_proxy else None,
        dnsmasq=_dnsmasq_instance(dhcp, settings),
        metadata_paths={
            subnet_id: {"way": path.kind.value, "next_hop": path.next_hop, "reason": path.reason}
            for subnet_id, path in paths.items()
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


def _dnsmasq_instance(dhcp: DhcpNetwork, settings: DhcpSettings) -> DnsmasqInstance:
    paths = DnsmasqPaths.of(settings.state_path, dhcp.network.id)
    namespace = dhcp_namespace(dhcp.network.id, settings.namespace_prefix)
    daemon = dnsmasq(dhcp, paths, settings.dnsmasq, namespace)
    return DnsmasqInstance(
        dhcp, daemon, dnsmasq_files(dhcp, settings.dnsmasq, settings.metadata), paths, settings.dnsmasq.user_id
    )


def _any_dnsmasq(paths: DnsmasqPaths, namespace: str) -> Daemon:
    """A Daemon that matches each dnsmasq in the namespace. Its arguments are not known after the network's deletion."""
    return Daemon(name="dnsmasq", argv=("dnsmasq",), pid_file=paths.pid, namespace=namespace)


def _instance_ports(dhcp: DhcpNetwork) -> Iterable[Port]:
    """The ports that wait for DHCP: those with an address on a served subnet that do not belong to the network itself."""
    served = {subnet.id for subnet in dhcp.served_subnets}
    return [
        port
        for port in dhcp.ports
        if not port.device_owner.startswith("network:") and any(f.subnet_id in served for f in port.fixed_ips)
    ]
