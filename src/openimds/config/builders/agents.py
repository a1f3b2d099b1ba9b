"""Checked option values → an agent's frozen value: one function a program."""

from __future__ import annotations

import re
from math import inf
from pathlib import Path
from typing import Any

from openimds.config.builders.common import Common, auth, strict_hosts
from openimds.config.ini_reader import ConfigError
from openimds.config.loader import OptionValues
from openimds.config.options import DEFAULT, agents
from openimds.config.settings import (
    ComputeAgentConfig,
    DhcpAgentConfig,
    HaproxyTimeouts,
    L3AgentConfig,
    MetadataAgentConfig,
    MetadataProxyConfig,
    RateLimitOptions,
)

HAPROXY_LOG_SOCKET = "haproxy_log"
"""In the state folder: HAProxies log to it, the metadata agent reads it."""
MARK_MASK = 0xFFFF
MIB = 1024 * 1024


def metadata_agent(values: OptionValues, fields: Common) -> MetadataAgentConfig:
    return MetadataAgentConfig(
        **fields,
        **_agent(values),
        nova_metadata_host=values[DEFAULT, "nova_metadata_host"],
        nova_metadata_port=values[DEFAULT, "nova_metadata_port"],
        nova_metadata_protocol=values[DEFAULT, "nova_metadata_protocol"],
        nova_metadata_insecure=values[DEFAULT, "nova_metadata_insecure"],
        auth_ca_cert=values[DEFAULT, "auth_ca_cert"] or None,
        nova_client_cert=values[DEFAULT, "nova_client_cert"] or None,
        nova_client_priv_key=values[DEFAULT, "nova_client_priv_key"] or None,
        shared_secret=values[DEFAULT, "metadata_proxy_shared_secret"],
        socket_path=Path(values[DEFAULT, "metadata_proxy_socket"]),
        socket_mode=values[DEFAULT, "metadata_proxy_socket_mode"],
        proxy_user=values[DEFAULT, "metadata_proxy_user"],
        proxy_group=values[DEFAULT, "metadata_proxy_group"],
        lookup_cache_seconds=_lookup_cache_seconds(values),
        max_staleness_seconds=values[DEFAULT, "metadata_max_staleness"] or inf,
        direct_max_staleness_seconds=values[DEFAULT, "metadata_direct_max_staleness"] or inf,
        workers=values[DEFAULT, "metadata_workers"],
        backlog=values[DEFAULT, "metadata_backlog"],
        haproxy_log_socket=fields["state_path"] / HAPROXY_LOG_SOCKET,
        connections_per_guest=values["metadata_haproxy", "connections_per_guest"],
        strict_hosts=strict_hosts(values, "guest_requests"),
        rate_limit=_rate_limit(values),
    )


def dhcp_agent(values: OptionValues, fields: Common) -> DhcpAgentConfig:
    lease = values[DEFAULT, "dhcp_lease_duration"]
    if lease == 0:
        place = values.where(agents.DHCP_AGENT, "dhcp_lease_duration")
        raise ConfigError([f"{place}: a lease of 0 seconds is none; write -1 for leases that never end"])
    extra_file = values[DEFAULT, "dnsmasq_config_file"]
    return DhcpAgentConfig(
        **fields,
        **_agent(values),
        force_metadata=values[DEFAULT, "force_metadata"],
        enable_isolated_metadata=values[DEFAULT, "enable_isolated_metadata"],
        enable_metadata_network=values[DEFAULT, "enable_metadata_network"],
        dhcp_lease_seconds=None if lease == -1 else lease,
        dns_domain=values[DEFAULT, "dns_domain"],
        dnsmasq_dns_servers=tuple(values[DEFAULT, "dnsmasq_dns_servers"]),
        dnsmasq_local_resolv=values[DEFAULT, "dnsmasq_local_resolv"],
        dnsmasq_config_file=Path(extra_file) if extra_file else None,
        dnsmasq_lease_max=values[DEFAULT, "dnsmasq_lease_max"],
        dhcp_broadcast_reply=values[DEFAULT, "dhcp_broadcast_reply"],
        resync_interval_seconds=values[DEFAULT, "resync_interval"],
        proxy=_proxy(values, fields),
    )


def l3_agent(values: OptionValues, fields: Common) -> L3AgentConfig:
    return L3AgentConfig(
        **fields,
        **_agent(values),
        enable_metadata_proxy=values[DEFAULT, "enable_metadata_proxy"],
        metadata_port=values[DEFAULT, "metadata_port"],
        metadata_access_mark=int(values[DEFAULT, "metadata_access_mark"], 0) & MARK_MASK,
        resync_interval_seconds=values[DEFAULT, "resync_interval"],
        proxy=_proxy(values, fields),
    )


def compute_agent(values: OptionValues, fields: Common) -> ComputeAgentConfig:
    return ComputeAgentConfig(
        **fields,
        **_agent(values),
        vif_plugging_timeout_seconds=values[DEFAULT, "vif_plugging_timeout"],
        resync_interval_seconds=values[DEFAULT, "resync_interval"],
        guest_metadata_tries=values["guest", "metadata_tries"],
        guest_metadata_delay_seconds=values["guest", "metadata_delay"],
        guest_request_timeout_seconds=values["guest", "request_timeout"],
        guest_uid=values["guest", "uid"],
        guest_memory_bytes=values["guest", "memory_mib"] * MIB,
        guest_processes=values["guest", "processes"],
    )


def _agent(values: OptionValues) -> dict[str, Any]:
    """The fields of AgentConfig."""
    return {
        "auth": auth(values, agents.KEYSTONE_AUTHTOKEN),
        "report_interval_seconds": values["agent", "report_interval"],
    }


def _proxy(values: OptionValues, fields: Common) -> MetadataProxyConfig:
    section = "metadata_haproxy"
    return MetadataProxyConfig(
        kind=values[DEFAULT, "metadata_proxy"],
        socket_path=Path(values[DEFAULT, "metadata_proxy_socket"]),
        user=values[DEFAULT, "metadata_proxy_user"],
        group=values[DEFAULT, "metadata_proxy_group"],
        timeouts=HaproxyTimeouts(
            connect=values[section, "timeout_connect"],
            client=values[section, "timeout_client"],
            server=values[section, "timeout_server"],
            http_request=values[section, "timeout_http_request"],
            http_keep_alive=values[section, "timeout_http_keep_alive"],
        ),
        connections_per_guest=values[section, "connections_per_guest"],
        strict_hosts=strict_hosts(values, section),
        rate_limit=_rate_limit(values),
        haproxy_log_socket=fields["state_path"] / HAPROXY_LOG_SOCKET,
    )


def _rate_limit(values: OptionValues) -> RateLimitOptions | None:
    section = "metadata_rate_limiting"
    if not values[section, "rate_limit_enabled"]:
        return None
    return RateLimitOptions(
        ip_versions=frozenset(values[section, "ip_versions"]),
        base_window_seconds=values[section, "base_window_duration"],
        base_requests=values[section, "base_query_rate_limit"],
        burst_window_seconds=values[section, "burst_window_duration"],
        burst_requests=values[section, "burst_query_rate_limit"],
    )


def _lookup_cache_seconds(values: OptionValues) -> int:
    """`memory://?default_ttl=5` → 5, as neutron's own agents had it; empty, or without the number: 0."""
    text = values[DEFAULT, "cache_url"].strip()
    found = re.fullmatch(r"memory://(?:\?default_ttl=(\d{1,6}))?", text)
    if text and found is None:
        place = values.where(agents.METADATA_AGENT, "cache_url")
        raise ConfigError([f"{place}: is not valid: {text!r} is not of the form memory://?default_ttl=SECONDS"])
    return int(found.group(1) or 0) if found else 0
