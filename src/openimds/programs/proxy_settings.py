"""The settings of the namespace proxies, converted from the configuration of an agent."""

from __future__ import annotations

from pathlib import Path

from openimds.config import MetadataProxyConfig
from openimds.netconfig.haproxy import HaproxyRateLimit, ProxySettings, ProxyTimeouts


def proxy_settings(config: MetadataProxyConfig, state_path: Path) -> ProxySettings:
    return ProxySettings(
        is_direct=config.kind == "direct",
        state_path=state_path,
        agent_socket=config.socket_path,
        log_socket=config.haproxy_log_socket,
        user=config.user,
        group=config.group,
        timeouts=_timeouts(config),
        connections_per_guest=config.connections_per_guest,
        logs_all_requests=config.logs_all_requests,
        strict_hosts=config.strict_hosts,
        rate_limit=_rate_limit(config),
    )


def _timeouts(config: MetadataProxyConfig) -> ProxyTimeouts:
    return ProxyTimeouts(
        connect_seconds=config.timeouts.connect,
        client_seconds=config.timeouts.client,
        server_seconds=config.timeouts.server,
        http_request_seconds=config.timeouts.http_request,
        http_keep_alive_seconds=config.timeouts.http_keep_alive,
    )


def _rate_limit(config: MetadataProxyConfig) -> HaproxyRateLimit | None:
    limit = config.rate_limit
    if limit is None:
        return None
    return HaproxyRateLimit(
        ip_versions=limit.ip_versions,
        base_window_seconds=limit.base_window_seconds,
        base_requests=limit.base_requests,
        burst_window_seconds=limit.burst_window_seconds,
        burst_requests=limit.burst_requests,
    )
