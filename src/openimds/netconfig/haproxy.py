"""The text of a namespace's HAProxy: it takes the guests' requests, says where they came from, and hands them on.

Rules of this file:

1. Whatever a guest writes of who or where it is never passes, in whatever spelling: it is deleted first, then set.
2. A configuration depends on nothing but its arguments; an equal text means that nothing has to be reloaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from openimds.netconfig.addresses import METADATA_IPV4, METADATA_IPV6, METADATA_PORT
from openimds.netconfig.listener_file import ListenAddress, Scope
from openimds.netconfig.namespace_state import Daemon

MAX_CONNECTIONS = 2048
BACKLOG = 4096
RETRIES = 3
"""They follow each other at once: a unix socket refuses at once. While an agent is restarted the requests wait in its
socket's queue, if whoever starts it keeps the socket; if nobody does, the guest gets 503 and asks again."""
TABLE_SIZE = 100_000

# HAProxy sees header names in lower case. `_` for `-`: some servers behind a proxy read both as one.
_IDENTITY_CLAIMS = (
    "x[-_]instance[-_]id[^,]*|x[-_](tenant|project)[-_]id|x[-_]metadata[-_]provider[^,]*|x[-_]neutron[-_][^,]*|x[-_]ovn[-_][^,]*"
    "|x[-_]forwarded[^,]*|forwarded|x[-_]real[-_]ip"
)
"""A header's name has no comma: HAProxy joins all names of a request by commas."""
GUEST_CLAIMS = f"^({_IDENTITY_CLAIMS}|x[-_]openstack[-_]request[-_]id|x[-_]openimds[-_].*)$"
"""The headers, as a regular expression, that are never a guest's to send."""
_GUEST_FORWARDED = "X-Openimds-Guest-Forwarded"
"""As guest_identity/headers.py has it."""
_PRIVILEGED = "X-Openimds-Guest-Privileged"
"""As guest_identity/headers.py has it."""
_IS_FORWARDED = "{ req.hdr_names -m reg -i '(^|,)(x[-_]forwarded[-_]for|forwarded)(,|$)' }"
_AWAY = "The metadata agent does not answer. Ask again."
_OTHER_HOST = "The request names another host than the metadata service's."
_FORWARDED = "The request was forwarded, or says itself who asks."
_TOO_MANY = "Too many requests. Ask again later."


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyTimeouts:
    """`[metadata_haproxy]`, in seconds, with neutron's defaults."""

    connect_seconds: int = 30
    client_seconds: int = 32
    server_seconds: int = 32
    http_request_seconds: int = 30
    http_keep_alive_seconds: int = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class HaproxyRateLimit:
    """`[metadata_rate_limiting]`: requests of one address within a window; more are answered 429."""

    ip_versions: frozenset[int] = frozenset({4, 6})
    base_window_seconds: int
    base_requests: int
    burst_window_seconds: int
    burst_requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxySettings:
    """What all proxies of an agent have in common."""

    is_direct: bool = False
    """`metadata_proxy = direct`: no HAProxies, the metadata agent listens itself."""
    state_path: Path
    agent_socket: Path
    """The metadata agent's."""
    log_socket: Path
    """Unix datagrams: one JSON object a request."""
    user: str = ""
    """Empty: the agent's own."""
    group: str = ""
    timeouts: ProxyTimeouts = ProxyTimeouts()
    connections_per_guest: int = 256
    """Of one address; 0: as many as there are."""
    strict_hosts: tuple[str, ...] | None = None
    """The Hosts that guests may name, and nothing forwarded; None: whatever they send."""
    rate_limit: HaproxyRateLimit | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxySpec:
    """One namespace's proxy. `name` names its files: the network's or the router's whose namespace it is in."""

    name: str
    namespace: str
    scope: Scope
    scope_id: str
    """What it says in its header: of a metadata network the router behind it, else `name`."""
    addresses: tuple[ListenAddress, ...]
    access_mark: int = 0
    """What the namespace's firewall lets in marks its packets so; 0: it lets everything in."""


def network_proxy(*, name: str, namespace: str, device: str, has_ipv6: bool, router_id: str | None = None) -> ProxySpec:
    """In a DHCP namespace, on the metadata service's own addresses."""
    ipv6 = (ListenAddress(METADATA_IPV6, METADATA_PORT, device),) if has_ipv6 else ()
    return ProxySpec(
        name=name,
        namespace=namespace,
        scope=Scope.ROUTER if router_id else Scope.NETWORK,
        scope_id=router_id or name,
        addresses=(ListenAddress(METADATA_IPV4, METADATA_PORT), *ipv6),
    )


def router_proxy(*, name: str, namespace: str, port: int, access_mark: int) -> ProxySpec:
    """In a router's namespace, on the port that requests are redirected to; the firewall keeps others from it."""
    return ProxySpec(
        name=name,
        namespace=namespace,
        scope=Scope.ROUTER,
        scope_id=name,
        addresses=(ListenAddress("0.0.0.0", port), ListenAddress("::", port)),
        access_mark=access_mark,
    )


def config_file(name: str, settings: ProxySettings) -> Path:
    return settings.state_path / "ns-metadata-proxy" / f"{name}.conf"


def haproxy(name: str, namespace: str, settings: ProxySettings) -> Daemon:
    """`haproxy -f <state_path>/ns-metadata-proxy/<id>.conf`, as people know it from `ps`."""
    return Daemon(
        name="haproxy",
        argv=("haproxy", "-f", str(config_file(name, settings))),
        pid_file=_pid_file(name, settings),
        namespace=namespace,
    )


def haproxy_config(proxy: ProxySpec, settings: ProxySettings) -> str:
    """The whole file."""
    sections = [_global(proxy, settings), _defaults(proxy, settings.timeouts), *_tables(settings)]
    return "\n".join([*("\n".join(section) + "\n" for section in sections), "\n".join(_listen(proxy, settings)), ""])


def _pid_file(name: str, settings: ProxySettings) -> Path:
    return settings.state_path / "external" / "pids" / f"{name}.pid.haproxy"


def _global(proxy: ProxySpec, settings: ProxySettings) -> list[str]:
    return [
        "global",
        f"    log {settings.log_socket} len 2048 format raw local0 info",
        *([f"    user {settings.user}"] if settings.user else []),
        *([f"    group {settings.group}"] if settings.group else []),
        f"    maxconn {MAX_CONNECTIONS}",
        "    nbthread 1",
        f"    pidfile {_pid_file(proxy.name, settings)}",
        "    daemon",
    ]


def _defaults(proxy: ProxySpec, timeouts: ProxyTimeouts) -> list[str]:
    return [
        "defaults",
        "    mode http",
        "    log global",
        "    option dontlognull",
        "    option disable-h2-upgrade",  # one protocol: what is not HTTP/1 is refused
        f"    maxconn {MAX_CONNECTIONS}",
        f"    backlog {BACKLOG}",
        f"    retries {RETRIES}",
        "    retry-on conn-failure empty-response",
        f"    timeout connect {timeouts.connect_seconds}s",
        f"    timeout client {timeouts.client_seconds}s",
        f"    timeout server {timeouts.server_seconds}s",
        f"    timeout http-request {timeouts.http_request_seconds}s",
        f"    timeout http-keep-alive {timeouts.http_keep_alive_seconds}s",
        "    unique-id-format req-%[uuid()]",
        f"    log-format '{_log_line(proxy)}'",
        f'    http-error status 503 content-type text/plain string "{_AWAY}" hdr Retry-After 1',
    ]


def _log_line(proxy: ProxySpec) -> str:
    """`{"request_id": "req-…", "network_id": "…", "source": "10.0.0.5", "method": "GET", "status": 200, …}`

    What the guest wrote comes last and is cut, so that a datagram is always a whole JSON object.
    """
    return (
        f'{{"request_id": "%ID", "{proxy.scope.value}_id": "{proxy.scope_id}", "source": "%ci", "status": %ST, '
        '"bytes": %B, "milliseconds": %Ta, "termination": "%ts", "method": "%[capture.req.method,json(utf8s)]", '
        '"path": "%[capture.req.uri,bytes(0,256),json(utf8s)]"}'
    )


def _listen(proxy: ProxySpec, settings: ProxySettings) -> list[str]:
    return [
        "listen listener",
        *(f"    bind {_bind(address)}" for address in proxy.addresses),
        *(f"    {line}" for line in _connection_limit(settings.connections_per_guest)),
        *(f"    {line}" for line in _limits(settings.rate_limit)),
        *(f"    {line}" for line in _strictness(settings.strict_hosts)),
        # Only what may be asked twice is asked again when the agent goes away in the middle of it.
        "    http-request disable-l7-retry if !METH_GET",
        f"    http-request set-var(txn.forwarded) bool(true) if {_IS_FORWARDED}",
        f"    http-request del-header {GUEST_CLAIMS} -m reg",
        f"    http-request set-header {_GUEST_FORWARDED} 1 if {{ var(txn.forwarded) -m bool }}",
        f"    http-request set-header {_PRIVILEGED} 1 if {{ src_port lt 1024 }}",
        f"    http-request set-header {proxy.scope.header} {proxy.scope_id}",
        "    http-request set-header X-Forwarded-For %[src]",
        "    http-request set-header X-Openstack-Request-Id %[unique-id]",
        "    http-response set-header X-Openstack-Request-Id %[unique-id]",
        f"    server metadata unix@{settings.agent_socket}",
    ]


def _bind(address: ListenAddress) -> str:
    """`[fe80::a9fe:a9fe]:80 interface tap59c6e1f0-1e`; one family a socket."""
    if address.device:
        return f"[{address.host}]:{address.port} interface {address.device}"
    return f"{address} v6only" if address.host == "::" else str(address)


def _tables(settings: ProxySettings) -> Iterator[list[str]]:
    yield from _rate_tables(settings.rate_limit)
    if settings.connections_per_guest:
        yield ["backend guests", f"    stick-table type ipv6 size {TABLE_SIZE} expire 60s store conn_cur"]


def _connection_limit(per_guest: int) -> Iterator[str]:
    """No guest can take all of the proxy's connections from its neighbours."""
    if per_guest:
        yield "tcp-request connection track-sc2 src table guests"
        yield f"tcp-request connection reject if {{ sc_conn_cur(2) gt {per_guest} }}"


def _strictness(hosts: tuple[str, ...] | None) -> Iterator[str]:
    """Before anything is deleted. The words are those of guest_identity/request_policy.py."""
    if hosts is None:
        return
    names = "|".join(re.escape(host.lower()) for host in hosts)
    for text, condition in (
        (_OTHER_HOST, f"!{{ req.fhdr(host),lower -m reg '^({names})(:[0-9]+)?$' }}"),
        (_FORWARDED, f"{{ req.hdr_names -m reg -i '(^|,)({_IDENTITY_CLAIMS})(,|$)' }}"),
    ):
        yield f'http-request return status 403 content-type text/plain string "{text}" if {condition}'


def _rate_tables(limit: HaproxyRateLimit | None) -> Iterator[list[str]]:
    if limit is None:
        return
    for name, seconds in (("base", limit.base_window_seconds), ("burst", limit.burst_window_seconds)):
        # IPv4 addresses are kept in their IPv4-mapped form: one table serves both.
        yield [
            f"backend {name}",
            f"    stick-table type ipv6 size {TABLE_SIZE} expire {seconds}s store http_req_rate({seconds}s)",
        ]


def _limits(limit: HaproxyRateLimit | None) -> Iterator[str]:
    if limit is None:
        return
    which = _address_condition(limit.ip_versions)
    rates = (
        f"{{ sc_http_req_rate(0) gt {limit.base_requests} }}",
        f"{{ sc_http_req_rate(1) gt {limit.burst_requests} }}",
    )
    yield f"http-request track-sc0 src table base{which}"
    yield f"http-request track-sc1 src table burst{which}"
    refusal = f'http-request return status 429 content-type text/plain string "{_TOO_MANY}" hdr Retry-After 1'
    yield f"{refusal} if {' || '.join(rates)}"


def _address_condition(ip_versions: frozenset[int]) -> str:
    if ip_versions == {4}:
        return " if { src 0.0.0.0/0 }"
    return " if !{ src 0.0.0.0/0 }" if ip_versions == {6} else ""
