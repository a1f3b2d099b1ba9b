"""The configuration of each program as a frozen dataclass."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from openimds.metadata.imds_options import ImdsOptions
from openimds.resources.auth import AuthOptions


@dataclass(frozen=True, slots=True)
class Listen:
    """The address and port of a listener."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class LogConfig:
    """The log settings of a program, which logs to stderr."""

    debug: bool
    format: str
    """`console` (text) or `json` (one object per line)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonConfig:
    """The settings that every program has."""

    program: str
    """The name on the command line, such as `dhcp-agent`."""
    config_files: tuple[str, ...]
    """The paths that the settings were loaded from, in order. Programs that handle SIGHUP reload them."""
    warnings: tuple[str, ...]
    """Sentences about old option names and likely misspellings. The program logs each once."""
    state_path: Path
    host: str
    namespace_prefix: str
    log: LogConfig
    metrics: Listen | None
    """The listener of /metrics and /healthcheck. None if they are not served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentsConfig:
    """The settings for rendering documents that apply to all instances."""

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
    """`[vendordata_dynamic_auth]`. None if requests to the targets carry no token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyConfig:
    """The files of the control API's rules. A relative path is looked for beside each configuration file, the last first."""

    files: tuple[Path, ...]
    """The places of the policy file. The first that exists is used."""
    required: bool
    """True if the configuration names the file, so that it must exist."""
    folders: tuple[tuple[Path, ...], ...]
    """The places of each folder of further files. The first that exists is used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlApiConfig(CommonConfig):
    database_url: str = field(repr=False)
    """An SQLAlchemy URL, which may contain a password."""
    listen: Listen
    public_url: str
    """The prefix of the URLs in the catalog, without a trailing slash."""
    region: str
    token_keys_file: Path
    token_expiration_seconds: int
    images_dir: Path
    image_size_cap_bytes: int
    image_count_total: int
    """-1 if it is unlimited."""
    image_size_total_mib: int
    """-1 if it is unlimited."""
    image_disk_reserve_mib: int
    agent_down_seconds: float
    change_retention_seconds: int
    """The age up to which changes and tombstones are stored for watching clients."""
    documents: DocumentsConfig
    """The settings for metadata agents that render documents themselves."""
    policy: PolicyConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """`[wsgi] ssl_*` of nova.conf."""

    certificate: Path
    key: Path
    client_authority: Path | None
    """The CA certificates for client certificates. None if clients need no certificate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataApiConfig(CommonConfig):
    database_url: str = field(repr=False)
    listen: Listen
    tls: TlsFiles | None
    """None if the API serves plain HTTP."""
    workers: int
    service_metadata_proxy: bool
    """Whether a metadata agent signs the requests. Otherwise an instance is identified by its address."""
    shared_secrets: tuple[str, ...] = field(repr=False)
    """The current secret, then the previous one during a change of the secret. Empty if none is set."""
    allow_empty_shared_secret: bool
    strict_hosts: tuple[str, ...] | None
    """The permitted Host headers of unsigned requests. None if strict checks are off."""
    documents: DocumentsConfig
    vendor_data: VendorDataConfig
    metadata_cache_expiration_seconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig(CommonConfig):
    """The settings that every agent has."""

    auth: AuthOptions
    report_interval_seconds: float
    """The interval of heartbeats."""


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
    """The user of the namespace proxies. Empty if they run as the agent's user."""
    proxy_group: str
    notifications_url: str = field(repr=False)
    """The message broker of Neutron's notifications. Empty if the agent receives none."""
    notification_topics: tuple[str, ...]
    lookup_cache_seconds: int
    """The TTL of port lookups if the control API has no watch."""
    max_staleness_seconds: float
    """The maximum age of mirrored ports in haproxy mode. May be infinite."""
    direct_max_staleness_seconds: float
    """The maximum age of mirrored ports in direct mode, and of instance records in both modes. May be infinite."""
    workers: int
    backlog: int
    haproxy_log_socket: Path
    connections_per_guest: int
    """The limit per instance in direct mode. 0 if only the total limit applies."""
    strict_hosts: tuple[str, ...] | None
    """The permitted Host headers in direct mode. None if strict checks are off."""
    rate_limit: RateLimitOptions | None
    """The rate limit per port in direct mode."""


@dataclass(frozen=True, slots=True)
class HaproxyTimeouts:
    """The timeouts of a namespace proxy in seconds, from `[metadata_haproxy]`."""

    connect: int
    client: int
    server: int
    http_request: int
    http_keep_alive: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimitOptions:
    """`[metadata_rate_limiting]`: the requests per window. A client beyond either limit gets 429."""

    ip_versions: frozenset[int]
    base_window_seconds: int
    base_requests: int
    burst_window_seconds: int
    burst_requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataProxyConfig:
    """The settings of the namespace proxies, which the DHCP agent and the L3 agent manage."""

    kind: str
    """`haproxy` (one HAProxy per namespace) or `direct` (the metadata agent listens in each namespace)."""
    socket_path: Path
    """The metadata agent's socket, which the proxies forward to."""
    user: str
    group: str
    timeouts: HaproxyTimeouts
    connections_per_guest: int
    """The limit per instance. 0 if only the total limit of the proxy applies."""
    logs_all_requests: bool
    """False if the proxies log only failed requests."""
    strict_hosts: tuple[str, ...] | None
    """The permitted Host headers. None if strict checks are off."""
    rate_limit: RateLimitOptions | None
    haproxy_log_socket: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class DhcpAgentConfig(AgentConfig):
    force_metadata: bool
    enable_isolated_metadata: bool
    enable_metadata_network: bool
    dhcp_lease_seconds: int | None
    """None if leases do not expire."""
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
    """The time that a boot waits for its ports to be wired and served by DHCP. After it the boot continues without."""
    resync_interval_seconds: float
    guest_metadata_tries: int
    guest_metadata_delay_seconds: float
    guest_request_timeout_seconds: float
    guest_uid: int
    """The host user ID of the processes of instances."""
    guest_memory_bytes: int
    guest_processes: int
    guest_disk_bytes: int
    """The size of the disk of a flavor without one."""
    guest_disk_is_preallocated: bool
    guest_reserved_disk_bytes: int
    """The free space that new disks leave."""
