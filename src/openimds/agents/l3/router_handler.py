"""The resource handler of routers: their namespace, devices, firewall, metadata proxy and radvd.

When the addresses of a router change, it also sends gratuitous ARP and deletes conntrack entries.
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from openimds.agents.atomic_write import write_if_changed
from openimds.agents.ipv6_metadata_address import Ipv6MetadataAddress
from openimds.agents.metadata_proxy import MetadataProxyDriver, NamespaceProbe
from openimds.agents.protocols import CloudView, DaemonManager, NetworkConfigurator, RunProgram
from openimds.agents.provisioning_blocks import ProvisioningApi, ProvisioningBlocks
from openimds.agents.reconciler.reconciler import ErrorCollector
from openimds.netconfig.haproxy import ProxySettings, ProxySpec, router_proxy
from openimds.netconfig.metadata_path import is_router_interface
from openimds.netconfig.namespace_state import NamespaceState
from openimds.netconfig.radvd import RadvdSettings, radvd, radvd_config, radvd_file
from openimds.netconfig.router_namespace import (
    RouterMetadata,
    RouterView,
    router_bridges,
    router_namespace_state,
    unreachable_routes,
)
from openimds.resources.network import DEVICE_OWNER_ROUTER_GATEWAY, FloatingIP, Port, Router, router_namespace


class RadvdManager:
    """Starts and stops radvd. Methods return a description of each change."""

    def __init__(self, programs: DaemonManager) -> None:
        self._programs = programs
        self.pids: dict[str, int] = {}
        """The PID that should be running, by router."""

    def ensure(self, view: RouterView, namespace: str, settings: RadvdSettings) -> tuple[str, ...]:
        """Runs radvd if a network of the router needs advertisements. Raises OSError, and DaemonManager.start's errors."""
        config = radvd_config(view)
        router_id = view.router.id
        if not config:
            return self.remove(router_id, namespace, settings)
        daemon = radvd(router_id, namespace, settings)
        is_new = write_if_changed(radvd_file(router_id, settings), config)
        pid = self._programs.running_pid(daemon)
        if pid is not None and not is_new:
            self.pids[router_id] = pid
            return ()
        # A restart instead of SIGHUP, because radvd has dropped the privileges to read a file in a folder of root.
        self._programs.stop(daemon)
        self._programs.stop_stale(daemon)
        self.pids[router_id] = self._programs.start(daemon)
        return (f"start radvd (pid {self.pids[router_id]})",)

    def remove(self, router_id: str, namespace: str, settings: RadvdSettings) -> tuple[str, ...]:
        """Stops radvd. Idempotent."""
        path, daemon = radvd_file(router_id, settings), radvd(router_id, namespace, settings)
        if not path.exists() and self._programs.running_pid(daemon) is None:
            return ()
        self.pids.pop(router_id, None)
        self._programs.stop(daemon)
        path.unlink(missing_ok=True)
        return ("stop radvd",)


logger = structlog.get_logger(__name__)


class Announce(Protocol):
    """Sends gratuitous ARP for an address of the device."""

    def __call__(self, namespace: str, device: str, address: str) -> None: ...


class GratuitousArp:
    """Announces new addresses, so that neighbours replace the entries of the former owner immediately."""

    def __init__(self, announce: Announce) -> None:
        self._announce = announce
        self._announced: dict[str, frozenset[tuple[str, str]]] = {}
        """The announced (device, address) pairs, by router."""

    def announce_new(self, router_id: str, state: NamespaceState) -> tuple[str, ...]:
        """Announces the IPv4 addresses that are new since the last call. Returns no changes. Raises Announce's errors."""
        addresses = frozenset(_ipv4_addresses(state))
        for device, address in sorted(addresses - self._announced.get(router_id, frozenset())):
            self._announce(state.name, device, address)
        self._announced[router_id] = addresses
        return ()

    def forget(self, router_id: str) -> None:
        self._announced.pop(router_id, None)


class FloatingIpConntrack:
    """Deletes conntrack entries, because the kernel would translate their connections beyond the floating IP's removal."""

    def __init__(self, run: RunProgram) -> None:
        self._run = run
        self._floating: dict[str, frozenset[tuple[str, str]]] = {}
        """The (floating address, fixed address) pairs, by router."""
        self._warned = False

    def delete_stale(self, view: RouterView, namespace: str) -> None:
        """Deletes the entries of floating IPs that were removed or moved to another instance."""
        pairs = frozenset((ip.floating_ip_address, ip.fixed_ip_address or "") for ip in view.floating_ips)
        for floating, fixed in sorted(self._floating.get(view.router.id, frozenset()) - pairs):
            self._delete(namespace, "--orig-dst", floating)
            self._delete(namespace, "--orig-src", fixed, "--reply-dst", floating)
        self._floating[view.router.id] = pairs

    def forget(self, router_id: str) -> None:
        self._floating.pop(router_id, None)

    def _delete(self, namespace: str, *selector: str) -> None:
        """Runs conntrack, which exits with an error if no entry matches. An error without exit code means it is missing."""
        try:
            self._run(("conntrack", "-D", *selector), namespace=namespace)
        except Exception as error:  # noqa: BLE001 - the runner decides which errors exist
            logger.debug("no conntrack entry deleted", namespace=namespace, selector=selector, error=str(error))
            if getattr(error, "exit_code", None) is None and not self._warned:
                self._warned = True
                logger.warning(
                    "conntrack not available",
                    effect="connections through removed floating IPs continue until they end: install conntrack",
                    error=str(error),
                )


def _ipv4_addresses(state: NamespaceState) -> Iterator[tuple[str, str]]:
    for device in state.devices:
        for interface in device.addresses or ():
            address = ipaddress.ip_interface(interface)
            if address.version == 4:
                yield device.name, str(address.ip)


@dataclass(frozen=True, slots=True, kw_only=True)
class L3Settings:
    """The settings of the L3 agent. A reload replaces them."""

    namespace_prefix: str = ""
    metadata: RouterMetadata
    proxy: ProxySettings
    advertisements: RadvdSettings
    has_ipv6: bool = True
    """Whether the kernel supports IPv6. If not, routers forward only IPv4."""


@dataclass(frozen=True, slots=True)
class RouterSpec:
    """The desired state of a router, from the control API. Equal values mean that nothing has to be done."""

    view: RouterView
    settings: L3Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class L3Adapters:
    api: ProvisioningApi
    configurator: NetworkConfigurator
    daemons: DaemonManager
    probe: NamespaceProbe
    run_program: RunProgram
    announce: Announce


class RouterHandler:
    """The ResourceHandler of routers."""

    kind = "router"

    def __init__(self, adapters: L3Adapters, settings: L3Settings) -> None:
        self.settings = settings
        """The current settings. Replaced as a whole; the next resync applies them."""
        self.report: Mapping[str, Mapping[str, object]] = {}
        """The facts about each router, for the heartbeat. Replaced as a whole."""
        self._configurator = adapters.configurator
        self._proxies = MetadataProxyDriver(adapters.daemons, adapters.probe)
        self._gratuitous_arp = GratuitousArp(adapters.announce)
        self._radvd = RadvdManager(adapters.daemons)
        self._conntrack = FloatingIpConntrack(adapters.run_program)
        self._ipv6_address = Ipv6MetadataAddress(adapters.configurator)
        self._provisioning = ProvisioningBlocks(adapters.api)

    def desired(self, view: CloudView) -> Mapping[str, RouterSpec]:
        ports, floating_ips = _ports_by_router(view), _floating_ips_by_router(view)
        routers = (
            _router_view(view, router, ports[router.id], floating_ips[router.id]) for router in view.routers.values()
        )
        return {
            router.router.id: RouterSpec(router if self.settings.has_ipv6 else router.without_ipv6(), self.settings)
            for router in routers
        }

    def actual(self) -> set[str]:
        prefix = router_namespace("", self.settings.namespace_prefix)
        return {name.removeprefix(prefix) for name in self._configurator.namespaces() if name.startswith(prefix)}

    def ensure(self, key: str, desired: RouterSpec) -> Iterable[str]:
        router, settings = desired.view, desired.settings
        state = router_namespace_state(router, settings.metadata, settings.namespace_prefix)
        steps = ErrorCollector()
        for bridge in router_bridges(router):
            steps.run(lambda bridge=bridge: self._configurator.ensure_bridge(bridge))  # type: ignore[misc]
        steps.run(lambda: self._configurator.apply(state))
        proxy = _proxy(desired, state.name)
        if proxy is None:
            steps.run(lambda: self._proxies.remove(key, state.name, settings.proxy))
        else:
            steps.run(lambda: self._proxies.ensure(proxy, settings.proxy))
        steps.run(lambda: self._radvd.ensure(router, state.name, settings.advertisements))
        steps.run(lambda: self._gratuitous_arp.announce_new(key, state))
        if proxy is not None:
            steps.run(lambda: self._proxies.wait_until_listening(proxy, settings.proxy))
        self._conntrack.delete_stale(router, state.name)
        steps.run(lambda: self._ipv6_address.check(key, state))
        steps.raise_errors()
        self._provisioning.report(router.ports, "l2")
        self.report = {**self.report, key: self._facts(desired, state.name)}
        return steps.changes

    def delete(self, key: str, view: CloudView) -> Iterable[str]:
        namespace = router_namespace(key, self.settings.namespace_prefix)
        existed = namespace in self._configurator.namespaces()
        self._proxies.remove(key, namespace, self.settings.proxy)
        self._radvd.remove(key, namespace, self.settings.advertisements)
        self._configurator.remove_namespace(namespace)
        self._gratuitous_arp.forget(key)
        self._conntrack.forget(key)
        self._ipv6_address.forget(key)
        self.report = {router_id: facts for router_id, facts in self.report.items() if router_id != key}
        return (f"remove {namespace}",) if existed else ()

    def cleanup(self, view: CloudView) -> Iterable[str]:
        self._provisioning.forget_all_but(view.ports)
        return ()

    def pids(self) -> Iterable[int]:
        return [*self._proxies.pids, *self._radvd.pids.values()]

    def _facts(self, desired: RouterSpec, namespace: str) -> Mapping[str, object]:
        router = desired.view
        return {
            "namespace": namespace,
            "devices": {port.router_device_name: list(port.ip_addresses) for port in router.ports},
            "floating_ips": {ip.floating_ip_address: ip.fixed_ip_address for ip in router.floating_ips},
            "metadata_proxy": desired.settings.metadata.enable_metadata_proxy and bool(router.internal_ports),
            "ipv6_metadata_elsewhere": sorted(self._ipv6_address.duplicates.get(router.router.id, ())),
            "unreachable_routes": list(unreachable_routes(router)),
        }


def _proxy(desired: RouterSpec, namespace: str) -> ProxySpec | None:
    """The proxy of a router; None without an internal network, because only its instances need the proxy."""
    router, settings = desired.view, desired.settings
    if not (settings.metadata.enable_metadata_proxy and router.internal_ports and router.router.admin_state_up):
        return None
    port, mark = settings.metadata.metadata_port, settings.metadata.access_mark
    proxy = router_proxy(name=router.router.id, namespace=namespace, port=port, access_mark=mark)
    if settings.has_ipv6:
        return proxy
    return replace(proxy, addresses=tuple(address for address in proxy.addresses if not address.is_ipv6))


def _ports_by_router(view: CloudView) -> Mapping[str, list[Port]]:
    by_router: dict[str, list[Port]] = defaultdict(list)
    for port in view.ports.values():
        if port.device_id and (is_router_interface(port) or port.device_owner == DEVICE_OWNER_ROUTER_GATEWAY):
            by_router[port.device_id].append(port)
    return by_router


def _floating_ips_by_router(view: CloudView) -> Mapping[str, list[FloatingIP]]:
    by_router: dict[str, list[FloatingIP]] = defaultdict(list)
    for floating in view.floating_ips.values():
        if floating.router_id and floating.fixed_ip_address:
            by_router[floating.router_id].append(floating)
    return by_router


def _router_view(view: CloudView, router: Router, ports: list[Port], floating_ips: list[FloatingIP]) -> RouterView:
    """The router, without ports on networks that the view does not contain yet and without interfaces whose
    `admin_state_up` is false.
    """
    usable = sorted((port for port in ports if port.network_id in view.networks), key=lambda port: port.id)
    external = [port for port in usable if port.device_owner == DEVICE_OWNER_ROUTER_GATEWAY]
    usable = [port for port in usable if port.admin_state_up or port in external]
    subnet_ids = {fixed.subnet_id for port in usable for fixed in port.fixed_ips}
    return RouterView(
        router=router,
        internal_ports=tuple(port for port in usable if port not in external),
        gateway_port=external[0] if external else None,
        subnets={subnet_id: view.subnets[subnet_id] for subnet_id in sorted(subnet_ids) if subnet_id in view.subnets},
        networks={port.network_id: view.networks[port.network_id] for port in usable},
        floating_ips=tuple(sorted(floating_ips, key=lambda floating: floating.id)) if external else (),
    )
