"""Keeps a router's radvd: only where a network wants router advertisements.

What others must hear, and what the kernel must forget, when a router's addresses change.

The L3 agent's trade: a router gets its namespace, its devices, its firewall and its proxy.
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
    """Says in words what it changed; nothing when all is right."""

    def __init__(self, programs: DaemonManager) -> None:
        self._programs = programs
        self.pids: dict[str, int] = {}
        """By router: which process should be running."""

    def ensure(self, view: RouterView, namespace: str, settings: RadvdSettings) -> tuple[str, ...]:
        """Raises what starting a program raises, and OSError."""
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
        # Started anew, not told to read again: by then it has given up the right to read in a closed folder.
        self._programs.stop(daemon)
        self._programs.stop_stale(daemon)
        self.pids[router_id] = self._programs.start(daemon)
        return (f"start radvd (pid {self.pids[router_id]})",)

    def remove(self, router_id: str, namespace: str, settings: RadvdSettings) -> tuple[str, ...]:
        """Idempotent."""
        path, daemon = radvd_file(router_id, settings), radvd(router_id, namespace, settings)
        if not path.exists() and self._programs.running_pid(daemon) is None:
            return ()
        self.pids.pop(router_id, None)
        self._programs.stop(daemon)
        path.unlink(missing_ok=True)
        return ("stop radvd",)


logger = structlog.get_logger(__name__)


class Announce(Protocol):
    """Gratuitous ARP: the address is at this device now."""

    def __call__(self, namespace: str, device: str, address: str) -> None: ...


class GratuitousArp:
    """A neighbour that had an address from somebody else before would go on sending there until its entry is old."""

    def __init__(self, announce: Announce) -> None:
        self._announce = announce
        self._announced: dict[str, frozenset[tuple[str, str]]] = {}
        """By router: (device, address)."""

    def announce_new(self, router_id: str, state: NamespaceState) -> tuple[str, ...]:
        """No change of ours, so no words. For every IPv4 address that is new since the last time. Raises what announcing raises."""
        addresses = frozenset(_ipv4_addresses(state))
        for device, address in sorted(addresses - self._announced.get(router_id, frozenset())):
            self._announce(state.name, device, address)
        self._announced[router_id] = addresses
        return ()

    def forget(self, router_id: str) -> None:
        self._announced.pop(router_id, None)


class FloatingIpConntrack:
    """A connection that was translated once goes on being translated after its floating IP was taken away."""

    def __init__(self, run: RunProgram) -> None:
        self._run = run
        self._floating: dict[str, frozenset[tuple[str, str]]] = {}
        """By router: (floating address, fixed address)."""
        self._complained = False

    def delete_stale(self, view: RouterView, namespace: str) -> None:
        """Those by floating IPs which are no more, or are another instance's now."""
        pairs = frozenset((one.floating_ip_address, one.fixed_ip_address or "") for one in view.floating_ips)
        for floating, fixed in sorted(self._floating.get(view.router.id, frozenset()) - pairs):
            self._delete(namespace, "--orig-dst", floating)
            self._delete(namespace, "--orig-src", fixed, "--reply-dst", floating)
        self._floating[view.router.id] = pairs

    def forget(self, router_id: str) -> None:
        self._floating.pop(router_id, None)

    def _delete(self, namespace: str, *which: str) -> None:
        """Conntrack ends with an error where there was nothing to delete; where it did not run at all, there is no code."""
        try:
            self._run(("conntrack", "-D", *which), namespace=namespace)
        except Exception as error:  # noqa: BLE001 - whatever the runner raises
            logger.debug("no connection was ended", namespace=namespace, which=which, error=str(error))
            if getattr(error, "exit_code", None) is None and not self._complained:
                self._complained = True
                logger.warning(
                    "connections by a floating IP that was taken away go on until they end by themselves; "
                    "install conntrack to have them ended",
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
    """What the L3 agent is told. May be replaced while it runs."""

    namespace_prefix: str = ""
    metadata: RouterMetadata
    proxy: ProxySettings
    advertisements: RadvdSettings
    has_ipv6: bool = True
    """Whether this host's kernel knows IPv6; where not, routers do IPv4 alone."""


@dataclass(frozen=True, slots=True)
class RouterSpec:
    """What the control API says of a router. Equal values: nothing has to be done."""

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
    """agents.reconcile.Trade of routers."""

    kind = "router"

    def __init__(self, adapters: L3Adapters, settings: L3Settings) -> None:
        self.settings = settings
        """Replaced whole; the next full round heeds it."""
        self.report: Mapping[str, Mapping[str, object]] = {}
        """By router: what is true of it. Replaced whole; for the heartbeat."""
        self._kernel = adapters.configurator
        self._proxies = MetadataProxyDriver(adapters.daemons, adapters.probe)
        self._announcements = GratuitousArp(adapters.announce)
        self._advertiser = RadvdManager(adapters.daemons)
        self._translations = FloatingIpConntrack(adapters.run_program)
        self._shared_address = Ipv6MetadataAddress(adapters.configurator)
        self._provisioning = ProvisioningBlocks(adapters.api)

    def desired(self, view: CloudView) -> Mapping[str, RouterSpec]:
        ports, floating_ips = _ports_by_router(view), _floating_ips_by_router(view)
        views = (_router_view(view, one, ports[one.id], floating_ips[one.id]) for one in view.routers.values())
        return {
            found.router.id: RouterSpec(found if self.settings.has_ipv6 else found.without_ipv6(), self.settings)
            for found in views
        }

    def actual(self) -> set[str]:
        start = router_namespace("", self.settings.namespace_prefix)
        return {name.removeprefix(start) for name in self._kernel.namespaces() if name.startswith(start)}

    def ensure(self, key: str, wanted: RouterSpec) -> Iterable[str]:
        router, settings = wanted.view, wanted.settings
        state = router_namespace_state(router, settings.metadata, settings.namespace_prefix)
        steps = ErrorCollector()
        for bridge in router_bridges(router):
            steps.do(lambda bridge=bridge: self._kernel.ensure_bridge(bridge))  # type: ignore[misc]
        steps.do(lambda: self._kernel.apply(state))
        proxy = _proxy(wanted, state.name)
        if proxy is None:
            steps.do(lambda: self._proxies.remove(key, state.name, settings.proxy))
        else:
            steps.do(lambda: self._proxies.ensure(proxy, settings.proxy))
        steps.do(lambda: self._advertiser.ensure(router, state.name, settings.advertisements))
        steps.do(lambda: self._announcements.announce_new(key, state))
        if proxy is not None:
            steps.do(lambda: self._proxies.wait_until_listening(proxy, settings.proxy))
        self._translations.delete_stale(router, state.name)
        steps.do(lambda: self._shared_address.check(key, state))
        steps.end()
        self._provisioning.report(router.ports, "l2")
        self.report = {**self.report, key: self._facts(wanted, state.name)}
        return steps.changes

    def delete(self, key: str, view: CloudView) -> Iterable[str]:
        namespace = router_namespace(key, self.settings.namespace_prefix)
        was_there = namespace in self._kernel.namespaces()
        self._proxies.remove(key, namespace, self.settings.proxy)
        self._advertiser.remove(key, namespace, self.settings.advertisements)
        self._kernel.remove_namespace(namespace)
        self._announcements.forget(key)
        self._translations.forget(key)
        self._shared_address.forget(key)
        self.report = {router_id: facts for router_id, facts in self.report.items() if router_id != key}
        return (f"remove {namespace}",) if was_there else ()

    def cleanup(self, view: CloudView) -> Iterable[str]:
        self._provisioning.forget_all_but(view.ports)
        return ()

    def pids(self) -> Iterable[int]:
        return [*self._proxies.pids, *self._advertiser.pids.values()]

    def _facts(self, wanted: RouterSpec, namespace: str) -> Mapping[str, object]:
        router = wanted.view
        return {
            "namespace": namespace,
            "devices": {port.router_device_name: list(port.ip_addresses) for port in router.ports},
            "floating_ips": {one.floating_ip_address: one.fixed_ip_address for one in router.floating_ips},
            "metadata_proxy": wanted.settings.metadata.enable_metadata_proxy and bool(router.internal_ports),
            "ipv6_metadata_elsewhere": sorted(self._shared_address.elsewhere.get(router.router.id, ())),
            "unreachable_routes": list(unreachable_routes(router)),
        }


def _proxy(wanted: RouterSpec, namespace: str) -> ProxySpec | None:
    """Only for guests: a router without an internal network has none."""
    router, settings = wanted.view, wanted.settings
    if not (settings.metadata.enable_metadata_proxy and router.internal_ports and router.router.admin_state_up):
        return None
    port, mark = settings.metadata.metadata_port, settings.metadata.access_mark
    proxy = router_proxy(name=router.router.id, namespace=namespace, port=port, access_mark=mark)
    if settings.has_ipv6:
        return proxy
    return replace(proxy, addresses=tuple(one for one in proxy.addresses if not one.is_ipv6))


def _ports_by_router(view: CloudView) -> Mapping[str, list[Port]]:
    found: dict[str, list[Port]] = defaultdict(list)
    for port in view.ports.values():
        if port.device_id and (is_router_interface(port) or port.device_owner == DEVICE_OWNER_ROUTER_GATEWAY):
            found[port.device_id].append(port)
    return found


def _floating_ips_by_router(view: CloudView) -> Mapping[str, list[FloatingIP]]:
    found: dict[str, list[FloatingIP]] = defaultdict(list)
    for floating in view.floating_ips.values():
        if floating.router_id and floating.fixed_ip_address:
            found[floating.router_id].append(floating)
    return found


def _router_view(view: CloudView, router: Router, ports: list[Port], floating_ips: list[FloatingIP]) -> RouterView:
    """A port whose network the view does not have yet waits for it."""
    known = sorted((port for port in ports if port.network_id in view.networks), key=lambda port: port.id)
    external = [port for port in known if port.device_owner == DEVICE_OWNER_ROUTER_GATEWAY]
    subnet_ids = {fixed.subnet_id for port in known for fixed in port.fixed_ips}
    return RouterView(
        router=router,
        internal_ports=tuple(port for port in known if port not in external),
        gateway_port=external[0] if external else None,
        subnets={subnet_id: view.subnets[subnet_id] for subnet_id in sorted(subnet_ids) if subnet_id in view.subnets},
        networks={port.network_id: view.networks[port.network_id] for port in known},
        floating_ips=tuple(sorted(floating_ips, key=lambda floating: floating.id)) if external else (),
    )
