"""The configuration of a namespace's HAProxy, which receives the guests' requests, adds their origin and forwards them.

Rules of this file:

1. No header by which a guest claims an identity or an origin passes, in any spelling. HAProxy deletes these headers
   first and then sets its own.
2. A configuration depends on nothing but its arguments. If the text is unchanged, nothing has to be reloaded.
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
"""The retries follow without a pause, because connect() to a unix socket without a listener fails immediately. During a
restart of the agent, requests wait in the socket's queue if the service manager keeps the socket open. Otherwise the
client gets 503 and retries."""
TABLE_SIZE = 100_000

# HAProxy matches header names in lower case. The patterns accept `_` for `-`, because some servers behind a proxy treat
# both as the same character (CGI variables).
_IDENTITY_HEADERS = (
    "x[-_]instance[-_]id[^,]*|x[-_](tenant|project)[-_]id|x[-_]metadata[-_]provider[^,]*|x[-_]neutron[-_][^,]*|x[-_]ovn[-_][^,]*"
    "|x[-_]forwarded[^,]*|forwarded|x[-_]real[-_]ip"
)
"""The headers of strict mode. `[^,]*` instead of `.*`: `req.hdr_names` joins all names of a request by commas."""
STRIPPED_HEADERS = f"^({_IDENTITY_HEADERS}|x[-_]openstack[-_]request[-_]id|x[-_]openimds[-_].*)$"
"""A regular expression of the headers that HAProxy removes from every request of a guest."""
_GUEST_FORWARDED = "X-Openimds-Guest-Forwarded"
"""The same name as in guest_identity/headers.py."""
_PRIVILEGED = "X-Openimds-Guest-Privileged"
"""The same name as in guest_identity/headers.py."""
_IS_FORWARDED = "{ req.hdr_names -m reg -i '(^|,)(x[-_]forwarded[-_]for|forwarded)(,|$)' }"
_AGENT_UNAVAILABLE = "The metadata agent does not respond. Try again."
_WRONG_HOST = "The request names another host than the metadata service's."
_FORWARDED_REQUEST = "The request was forwarded, or has a header that claims an identity."
_TOO_MANY_REQUESTS = "Too many requests. Try again later."


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
    """`[metadata_rate_limiting]`: the requests that one address may send within each window. Further ones get 429."""

    ip_versions: frozenset[int] = frozenset({4, 6})
    base_window_seconds: int
    base_requests: int
    burst_window_seconds: int
    burst_requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxySettings:
    """The settings that all proxies of an agent share."""

    is_direct: bool = False
    """True with `metadata_proxy = direct`: no HAProxy runs, and the metadata agent listens in the namespaces."""
    state_path: Path
    agent_socket: Path
    """The unix socket of the metadata agent."""
    log_socket: Path
    """The unix datagram socket that HAProxy logs to, one JSON object per request."""
    user: str = ""
    """The user and the group that HAProxy switches to. If they are empty, it runs as the agent's user."""
    group: str = ""
    timeouts: ProxyTimeouts = ProxyTimeouts()
    connections_per_guest: int = 256
    """The maximum number of open connections of one address. 0 means unlimited."""
    logs_all_requests: bool = True
    """False if a request is not logged when the agent answered and logged it. See `_log_rules`."""
    strict_hosts: tuple[str, ...] | None = None
    """The allowed values of `Host`. None if requests are not checked. Otherwise forwarded requests are rejected too."""
    rate_limit: HaproxyRateLimit | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxySpec:
    """The proxy of one namespace. `name` is the ID of the namespace's network or router; the proxy's files carry it."""

    name: str
    namespace: str
    scope: Scope
    scope_id: str
    """The ID that the proxy sends in its header: the router of a metadata network, else `name`."""
    addresses: tuple[ListenAddress, ...]
    access_mark: int = 0
    """The mark of the packets that the namespace's firewall accepts for the proxy. 0 if it accepts all packets."""


def network_proxy(*, name: str, namespace: str, device: str, has_ipv6: bool, router_id: str | None = None) -> ProxySpec:
    """Returns the proxy of a DHCP namespace, which listens on the metadata service's own addresses."""
    ipv6 = (ListenAddress(METADATA_IPV6, METADATA_PORT, device),) if has_ipv6 else ()
    return ProxySpec(
        name=name,
        namespace=namespace,
        scope=Scope.ROUTER if router_id else Scope.NETWORK,
        scope_id=router_id or name,
        addresses=(ListenAddress(METADATA_IPV4, METADATA_PORT), *ipv6),
    )


def router_proxy(*, name: str, namespace: str, port: int, access_mark: int) -> ProxySpec:
    """Returns the proxy of a router's namespace, which listens on the port that the firewall redirects requests to."""
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
    """Returns the daemon `haproxy -f <state_path>/ns-metadata-proxy/<id>.conf`, the command line that neutron uses."""
    return Daemon(
        name="haproxy",
        argv=("haproxy", "-f", str(config_file(name, settings))),
        pid_file=_pid_file(name, settings),
        namespace=namespace,
    )


def haproxy_config(proxy: ProxySpec, settings: ProxySettings) -> str:
    """Returns the text of the configuration file."""
    sections = [_global(proxy, settings), _defaults(proxy, settings.timeouts), *_stick_tables(settings)]
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
        "    option disable-h2-upgrade",  # only HTTP/1 is accepted
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
        f"    log-format '{_log_format(proxy)}'",
        f'    http-error status 503 content-type text/plain string "{_AGENT_UNAVAILABLE}" hdr Retry-After 1',
    ]


def _log_format(proxy: ProxySpec) -> str:
    """`{"request_id": "req-…", "network_id": "…", "source": "10.0.0.5", "method": "GET", "status": 200, …}`

    The path is the last field and is truncated, so that each datagram is a complete JSON object.
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
        *(f"    {line}" for line in _rate_limit_rules(settings.rate_limit)),
        *(f"    {line}" for line in _strict_rules(settings.strict_hosts)),
        # If the agent closes the connection before it responds, only a GET is retried, because a GET is idempotent.
        "    http-request disable-l7-retry if !METH_GET",
        f"    http-request set-var(txn.forwarded) bool(true) if {_IS_FORWARDED}",
        f"    http-request del-header {STRIPPED_HEADERS} -m reg",
        f"    http-request set-header {_GUEST_FORWARDED} 1 if {{ var(txn.forwarded) -m bool }}",
        f"    http-request set-header {_PRIVILEGED} 1 if {{ src_port lt 1024 }}",
        f"    http-request set-header {proxy.scope.header} {proxy.scope_id}",
        "    http-request set-header X-Forwarded-For %[src]",
        "    http-request set-header X-Openstack-Request-Id %[unique-id]",
        *(f"    {line}" for line in _log_rules(settings)),
        "    http-response set-header X-Openstack-Request-Id %[unique-id]",
        f"    server metadata unix@{settings.agent_socket}",
    ]


def _log_rules(settings: ProxySettings) -> Iterator[str]:
    """Suppresses the log line of a request that the agent logs. A datagram costs the agent as much as the response.

    openimds' agent returns the request ID. Stock neutron's agent does not, and logs no requests, so HAProxy logs them.
    """
    if not settings.logs_all_requests:
        logged = "{ res.hdr(X-Openstack-Request-Id) -m found }"
        yield f"http-response set-log-level silent if {{ status lt 500 }} {logged}"


def _bind(address: ListenAddress) -> str:
    """Returns `[fe80::a9fe:a9fe]:80 interface tap59c6e1f0-1e`. `::` gets `v6only`, since `0.0.0.0` has its own socket."""
    if address.device:
        return f"[{address.host}]:{address.port} interface {address.device}"
    return f"{address} v6only" if address.host == "::" else str(address)


def _stick_tables(settings: ProxySettings) -> Iterator[list[str]]:
    yield from _rate_limit_tables(settings.rate_limit)
    if settings.connections_per_guest:
        yield ["backend guests", f"    stick-table type ipv6 size {TABLE_SIZE} expire 60s store conn_cur"]


def _connection_limit(per_guest: int) -> Iterator[str]:
    """Limits the connections of one address, so that no guest can use up the proxy's connections."""
    if per_guest:
        yield "tcp-request connection track-sc2 src table guests"
        yield f"tcp-request connection reject if {{ sc_conn_cur(2) gt {per_guest} }}"


def _strict_rules(hosts: tuple[str, ...] | None) -> Iterator[str]:
    """Rejects the same requests with the same texts as guest_identity/request_policy.py.

    The rules precede the deletion of headers, because they match on headers that are deleted.
    """
    if hosts is None:
        return
    names = "|".join(re.escape(host.lower()) for host in hosts)
    for text, condition in (
        (_WRONG_HOST, f"!{{ req.fhdr(host),lower -m reg '^({names})(:[0-9]+)?$' }}"),
        (_FORWARDED_REQUEST, f"{{ req.hdr_names -m reg -i '(^|,)({_IDENTITY_HEADERS})(,|$)' }}"),
    ):
        yield f'http-request return status 403 content-type text/plain string "{text}" if {condition}'


def _rate_limit_tables(limit: HaproxyRateLimit | None) -> Iterator[list[str]]:
    if limit is None:
        return
    for name, seconds in (("base", limit.base_window_seconds), ("burst", limit.burst_window_seconds)):
        # A table of type ipv6 also stores IPv4 addresses, as IPv4-mapped ones.
        yield [
            f"backend {name}",
            f"    stick-table type ipv6 size {TABLE_SIZE} expire {seconds}s store http_req_rate({seconds}s)",
        ]


def _rate_limit_rules(limit: HaproxyRateLimit | None) -> Iterator[str]:
    if limit is None:
        return
    condition = _address_condition(limit.ip_versions)
    rates = (
        f"{{ sc_http_req_rate(0) gt {limit.base_requests} }}",
        f"{{ sc_http_req_rate(1) gt {limit.burst_requests} }}",
    )
    yield f"http-request track-sc0 src table base{condition}"
    yield f"http-request track-sc1 src table burst{condition}"
    rejection = (
        f'http-request return status 429 content-type text/plain string "{_TOO_MANY_REQUESTS}" hdr Retry-After 1'
    )
    yield f"{rejection} if {' || '.join(rates)}"


def _address_condition(ip_versions: frozenset[int]) -> str:
    if ip_versions == {4}:
        return " if { src 0.0.0.0/0 }"
    return " if !{ src 0.0.0.0/0 }" if ip_versions == {6} else ""
