"""What a program is told at its start: one frozen value each."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from openimds.metadata.imds_options import ImdsOptions
from openimds.resources.auth import AuthOptions


@dataclass(frozen=True, slots=True)
class Listen:
    """Where a server listens."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class LogConfig:
    """How a program logs to stderr."""

    debug: bool
    format: str
    """`console` (lines for people) or `json` (one object a line)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonConfig:
    """What every program is told."""

    program: str
    """`dhcp-agent`, as on the command line."""
    config_files: tuple[str, ...]
    """The files this was read from, in order; read again on SIGHUP where a program does that."""
    warnings: tuple[str, ...]
    """Sentences about the files: old spellings, likely misspellings. The program logs each once."""
    state_path: Path
    host: str
    namespace_prefix: str
    log: LogConfig
    metrics: Listen | None
    """Where /metrics and /healthcheck are served; None: nowhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentsConfig:
    """What documents are rendered with, the same for every instance."""

    dhcp_domain: str
    vendor_data_providers: tuple[str, ...]
    """`StaticJSON`, `DynamicJSON`."""
    vendor_data_file: Path | None
    """`[api] vendordata_jsonfile_path`"""
    policy: ImdsOptions
    """`[imds]`"""


@dataclass(frozen=True, slots=True, kw_only=True)
class VendorDataConfig:
    """`[api] vendordata_dynamic_*` of nova.conf."""

    dynamic_targets: tuple[tuple[str, str], ...]
    """(name, url)"""
    dynamic_connect_timeout_seconds: float
    dynamic_read_timeout_seconds: float
    dynamic_failure_fatal: bool
    dynamic_ssl_certfile: str | None
    dynamic_auth: AuthOptions | None
    """`[vendordata_dynamic_auth]`; None: the targets are asked without a token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlApiConfig(CommonConfig):
    database_url: str = field(repr=False)
    """As SQLAlchemy has them; may hold a password."""
    listen: Listen
    public_url: str
    """Without a slash at its end; what the catalog's URLs begin with."""
    region: str
    token_keys_file: Path
    token_expiration_seconds: int
    images_dir: Path
    agent_down_seconds: float
    change_retention_seconds: int
    """How long changes and tombstones are kept for watchers."""
    documents: DocumentsConfig
    """For metadata agents that render documents themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """`[wsgi] ssl_*` of nova.conf."""

    certificate: Path
    key: Path
    client_authority: Path | None
    """Who vouches for clients: each must show a certificate; None: none is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataApiConfig(CommonConfig):
    database_url: str = field(repr=False)
    listen: Listen
    tls: TlsFiles | None
    """None: plain HTTP."""
    workers: int
    service_metadata_proxy: bool
    """True: requests are signed by a metadata agent. False: an instance is known by its address."""
    shared_secrets: tuple[str, ...] = field(repr=False)
    """The current secret first, then the previous one during a change of it; empty: none is set."""
    allow_empty_shared_secret: bool
    strict_hosts: tuple[str, ...] | None
    """Without signed requests: the Hosts that guests may name, and nothing forwarded; None: whatever they send."""
    documents: DocumentsConfig
    vendor_data: VendorDataConfig
    metadata_cache_expiration_seconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig(CommonConfig):
    """What every agent is told."""

    auth: AuthOptions
    report_interval_seconds: float
    """Between two heartbeats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataAgentConfig(AgentConfig):
    nova_metadata_host: str
    nova_metadata_port: int
    nova_metadata_protocol: str
    """`http` or `https`."""
    nova_metadata_insecure: bool
    auth_ca_cert: str | None
    nova_client_cert: str | None
    nova_client_priv_key: str | None
    shared_secret: str = field(repr=False)
    socket_path: Path
    socket_mode: str
    """`deduce`, `user`, `group` or `all`."""
    proxy_user: str
    """The user the namespace proxies run as; empty: the agent's own."""
    proxy_group: str
    lookup_cache_seconds: int
    """How long a port that was looked up is believed where there is no watch."""
    max_staleness_seconds: float
    """How long what the watch told is believed without it, behind namespace proxies; may be infinite."""
    direct_max_staleness_seconds: float
    """The same with `metadata_proxy = direct`."""
    workers: int
    backlog: int
    haproxy_log_socket: Path
    connections_per_guest: int
    """With `metadata_proxy = direct`; 0: as many as there are."""
    strict_hosts: tuple[str, ...] | None
    """With `metadata_proxy = direct`: the Hosts that guests may name, and nothing forwarded; None: whatever they send."""
    rate_limit: RateLimitOptions | None
    """With `metadata_proxy = direct`: how often one port may ask."""


@dataclass(frozen=True, slots=True)
class HaproxyTimeouts:
    """`[metadata_haproxy]`: a namespace proxy's time-outs, in seconds."""

    connect: int
    client: int
    server: int
    http_request: int
    http_keep_alive: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimitOptions:
    """`[metadata_rate_limiting]`: requests of one address in a window; beyond either, 429."""

    ip_versions: frozenset[int]
    base_window_seconds: int
    base_requests: int
    burst_window_seconds: int
    burst_requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataProxyConfig:
    """The namespace proxies that the DHCP agent and the L3 agent keep."""

    kind: str
    """`haproxy`: one HAProxy a namespace; `direct`: the metadata agent listens in each."""
    socket_path: Path
    """The metadata agent's socket, to which they forward."""
    user: str
    group: str
    timeouts: HaproxyTimeouts
    connections_per_guest: int
    """0: as many as the proxy has."""
    strict_hosts: tuple[str, ...] | None
    """The Hosts that guests may name, and nothing forwarded; None: whatever they send."""
    rate_limit: RateLimitOptions | None
    haproxy_log_socket: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class DhcpAgentConfig(AgentConfig):
    force_metadata: bool
    enable_isolated_metadata: bool
    enable_metadata_network: bool
    dhcp_lease_seconds: int | None
    """None: leases never end."""
    dns_domain: str
    dnsmasq_dns_servers: tuple[str, ...]
    dnsmasq_local_resolv: bool
    dnsmasq_config_file: Path | None
    dnsmasq_lease_max: int
    dhcp_broadcast_reply: bool
    resync_interval_seconds: float
    proxy: MetadataProxyConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class L3AgentConfig(AgentConfig):
    enable_metadata_proxy: bool
    metadata_port: int
    metadata_access_mark: int
    """The lower 16 bits of a packet's mark."""
    resync_interval_seconds: float
    proxy: MetadataProxyConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeAgentConfig(AgentConfig):
    vif_plugging_timeout_seconds: float
    """How long a boot waits for its ports to be wired and served by DHCP; then it goes on without."""
    resync_interval_seconds: float
    guest_metadata_tries: int
    guest_metadata_delay_seconds: float
    guest_request_timeout_seconds: float
    guest_uid: int
    """The first host user id that guests run as."""
    guest_memory_bytes: int
    guest_processes: int
