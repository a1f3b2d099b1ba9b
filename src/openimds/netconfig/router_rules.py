"""A router's firewall, in the spelling of iptables-save.

- Requests to the metadata service that come in by an internal device are marked and redirected to the proxy's port;
  nothing else reaches that port (Launchpad 1865036), and none of them is ever forwarded.
- Floating IPs are 1:1: the address is translated both ways, also from inside the router's own networks.
- What else leaves by the external device takes the router's external address.
"""

from __future__ import annotations

from collections.abc import Iterator

from openimds.netconfig.addresses import METADATA_IPV4, METADATA_IPV6, METADATA_PORT
from openimds.netconfig.namespace_state import Rules
from openimds.netconfig.router_view import RouterMetadata, RouterView
from openimds.resources.network import FloatingIP

INTERNAL_DEVICES = "qr-+"
EXTERNAL_MARK = "0x2/0xffff"
"""On packets that came in from outside: they keep their source, all others that were sent to a floating IP do not."""


def ipv4_rules(view: RouterView, metadata: RouterMetadata) -> Rules:
    """The metadata service, floating IPs and the shared address."""
    service = f"{METADATA_IPV4}/32"
    nat = (
        *_redirect(service, metadata),
        *_floating_destinations(view),
        *_floating_sources(view),
        *_shared_source(view),
    )
    mangle = (*_mark_metadata(service, metadata), *_mark_external(view))
    return _rules(nat=nat, mangle=mangle, filtering=tuple(_guard(service, metadata)))


def ipv6_rules(metadata: RouterMetadata) -> Rules:
    """IPv6 is routed, not translated: there is only the metadata service."""
    service = f"{METADATA_IPV6}/128"
    return _rules(
        nat=tuple(_redirect(service, metadata)),
        mangle=tuple(_mark_metadata(service, metadata)),
        filtering=tuple(_guard(service, metadata)),
    )


def _rules(*, nat: tuple[str, ...], mangle: tuple[str, ...], filtering: tuple[str, ...]) -> Rules:
    return Rules({"nat": nat, "mangle": mangle, "filter": filtering})


def _to_service(service: str) -> str:
    return f"-A PREROUTING -d {service} -i {INTERNAL_DEVICES} -p tcp -m tcp --dport {METADATA_PORT}"


def _redirect(service: str, metadata: RouterMetadata) -> Iterator[str]:
    if metadata.enable_metadata_proxy:
        yield f"{_to_service(service)} -j REDIRECT --to-ports {metadata.metadata_port}"


def _mark_metadata(service: str, metadata: RouterMetadata) -> Iterator[str]:
    if metadata.enable_metadata_proxy:
        yield f"{_to_service(service)} -j MARK --set-xmark {_access_mark(metadata)}"


def _guard(service: str, metadata: RouterMetadata) -> Iterator[str]:
    if metadata.enable_metadata_proxy:
        yield f"-A INPUT -m mark --mark {_access_mark(metadata)} -j ACCEPT"
        yield f"-A INPUT -p tcp -m tcp --dport {metadata.metadata_port} -j DROP"
    # Refused, not dropped: a guest without a service hears so at once, and boots on.
    reject = "icmp6-port-unreachable" if ":" in service else "icmp-port-unreachable"
    yield f"-A FORWARD -d {service} -j REJECT --reject-with {reject}"


def _access_mark(metadata: RouterMetadata) -> str:
    return f"{metadata.access_mark:#x}/0xffff"


def _floating_destinations(view: RouterView) -> Iterator[str]:
    for chain in ("PREROUTING", "OUTPUT"):
        for floating in view.floating_ips:
            yield f"-A {chain} -d {floating.floating_ip_address}/32 -j DNAT --to-destination {floating.fixed_ip_address}"


def _floating_sources(view: RouterView) -> Iterator[str]:
    if view.gateway_port is None:
        return
    # Between the router's own networks nothing is translated, but for what was sent to a floating IP.
    yield (f"-A POSTROUTING ! -o {view.gateway_port.router_device_name} -m conntrack ! --ctstate DNAT -j ACCEPT")
    for floating in view.floating_ips:
        yield _source(f"-s {floating.fixed_ip_address}/32", floating.floating_ip_address)


def _shared_source(view: RouterView) -> Iterator[str]:
    address = external_address(view)
    gateway = view.router.external_gateway
    if address is None or gateway is None or view.gateway_port is None or not gateway.enable_snat:
        return
    yield _source(f"-o {view.gateway_port.router_device_name}", address)
    # A guest that speaks to a floating IP of its own router gets its answer back through the router.
    yield _source(f"-m mark ! --mark {EXTERNAL_MARK} -m conntrack --ctstate DNAT", address)


def _source(matching: str, address: str) -> str:
    return f"-A POSTROUTING {matching} -j SNAT --to-source {address}"


def _mark_external(view: RouterView) -> Iterator[str]:
    if view.gateway_port is not None:
        yield f"-A PREROUTING -i {view.gateway_port.router_device_name} -j MARK --set-xmark {EXTERNAL_MARK}"


def external_address(view: RouterView) -> str | None:
    """The router's own IPv4 address outside."""
    if view.gateway_port is None:
        return None
    return next((address for address in view.gateway_port.ip_addresses if ":" not in address), None)


def external_only(floating_ips: tuple[FloatingIP, ...]) -> tuple[str, ...]:
    """The floating addresses as they stand on the external device."""
    return tuple(f"{floating.floating_ip_address}/32" for floating in floating_ips)
