"""The functions that build the configuration of each program from its checked option values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any

from openimds.config.ini_reader import ConfigError
from openimds.config.loader import OptionValues, load
from openimds.config.options import DEFAULT, Section, agents
from openimds.config.options import apis as metadata_api_options
from openimds.config.options import common as common_options
from openimds.config.options.keystone import PASSWORD_PLUGINS, plugin_options, without_default
from openimds.config.settings import (
    ComputeAgentConfig,
    ControlApiConfig,
    DhcpAgentConfig,
    DocumentsConfig,
    HaproxyTimeouts,
    L3AgentConfig,
    Listen,
    LogConfig,
    MetadataAgentConfig,
    MetadataApiConfig,
    MetadataProxyConfig,
    PolicyConfig,
    RateLimitOptions,
    TlsFiles,
    VendorDataConfig,
)
from openimds.metadata.imds_options import ImdsOptions, TokenMode
from openimds.resources.auth import AuthOptions


def to_identity_v3(auth_url: str) -> str:
    """`http://controller:5000/v2.0` → `http://controller:5000/v3`. Other addresses stay unchanged.

    OpenStack removed identity v2.0 in 2018, and older configuration files still contain its address.
    """
    return re.sub(r"/v2\.0/?$", "/v3", auth_url)


def v2_address_warnings(values: OptionValues, sections: Sequence[Section]) -> Iterator[str]:
    """A warning for each auth_url that ends in /v2.0."""
    for section in sections:
        url: Any = values.values.get((section.name, "auth_url"))
        if url and to_identity_v3(url) != url:
            place = values.where(section, "auth_url")
            yield f"{place}: identity v2.0 no longer exists, so {to_identity_v3(url)} is used instead; write that"


Common = Mapping[str, Any]
"""The fields of CommonConfig."""


def common(program: str, values: OptionValues) -> dict[str, Any]:
    """The fields of CommonConfig except for `warnings`."""
    port = values["metrics", "port"]
    return {
        "program": program,
        "config_files": tuple(file.path for file in values.files),
        "state_path": _absolute(values, common_options.COMMON, "state_path"),
        "host": values[DEFAULT, "host"],
        "namespace_prefix": values[DEFAULT, "namespace_prefix"],
        "log": LogConfig(debug=values[DEFAULT, "debug"], format=values[DEFAULT, "log_format"]),
        "metrics": Listen(values["metrics", "listen"], port) if port else None,
    }


def auth(values: OptionValues, section: Section) -> AuthOptions:
    """The credentials from a section with keystoneauth's options. Raises ConfigError for missing required options."""
    name = section.name
    common_options: dict[str, Any] = {
        "auth_url": to_identity_v3(values[name, "auth_url"] or ""),
        "region_name": values[name, "region_name"],
        "cafile": values[name, "cafile"],
        "insecure": values[name, "insecure"],
        "auth_type": values[name, "auth_type"],
        "section": name,
        "files": tuple(file.path for file in values.files),
    }
    if values[name, "auth_type"] not in PASSWORD_PLUGINS:
        return AuthOptions(**common_options, plugin_options=_plugin_options(values, section))
    needed = ("auth_url", "username", "password")
    missing = [option for option in needed if not values[name, option]]
    if missing:
        raise ConfigError([f"[{name}] {option} is not set in {_file_names(values)}; set it" for option in missing])
    return AuthOptions(
        **common_options,
        username=values[name, "username"],
        password=values[name, "password"],
        project_name=values[name, "project_name"],
        user_domain_name=values[name, "user_domain_name"],
        project_domain_name=values[name, "project_domain_name"],
    )


def _plugin_options(values: OptionValues, section: Section) -> dict[str, Any]:
    """The options of another plugin than `password` that the files set. Raises ConfigError."""
    name, auth_type = section.name, values[section.name, "auth_type"]
    try:
        options = plugin_options(auth_type)
    except ValueError as error:
        raise ConfigError([f"{values.where(section, 'auth_type')}: is not valid: {error}"]) from None
    found = load([file.path for file in values.files], [Section(name, tuple(map(without_default, options)))])
    given = {option.dest: found[name, option.dest] for option in options if found[name, option.dest] is not None}
    if "auth_url" in given:
        given["auth_url"] = to_identity_v3(given["auth_url"])
    missing = [option.dest for option in options if option.required and option.dest not in given]
    if missing:
        raise ConfigError(
            [f"[{name}] {option} is not set in {_file_names(values)}; {auth_type} needs it" for option in missing]
        )
    return given


def strict_hosts(values: OptionValues, section: str) -> tuple[str, ...] | None:
    """The permitted Host headers. None if strict checks are off."""
    return tuple(values[section, "allowed_hosts"]) if values[section, "strict_requests"] else None


def _absolute(values: OptionValues, section: Section, name: str) -> Path:
    path = Path(values[section.name, name])
    if not path.is_absolute():
        raise ConfigError([f"{values.where(section, name)}: is not valid: write a path that begins with /"])
    return path


def _file_names(values: OptionValues) -> str:
    return ", ".join(file.path for file in values.files) or "any file: none was given with --config-file"


HAPROXY_LOG_SOCKET = "haproxy_log"
"""The name of the socket in the state folder that HAProxy logs to and the metadata agent reads."""
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
        notifications_url=values["oslo_messaging_notifications", "transport_url"],
        notification_topics=tuple(values["oslo_messaging_notifications", "topics"]),
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
        raise ConfigError([f"{place}: a lease must last longer than 0 seconds; write -1 for leases without an end"])
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
        guest_disk_bytes=values["guest", "disk_mib"] * MIB,
        guest_disk_is_preallocated=values["guest", "preallocate_disk"],
        guest_reserved_disk_bytes=values["guest", "reserved_disk_mib"] * MIB,
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
        logs_all_requests=values[section, "log_requests"] == "all",
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
    """`memory://?default_ttl=5` → 5, the form of neutron's agents. 0 if the option or the number is missing."""
    text = values[DEFAULT, "cache_url"].strip()
    found = re.fullmatch(r"memory://(?:\?default_ttl=(\d{1,6}))?", text)
    if text and found is None:
        place = values.where(agents.METADATA_AGENT, "cache_url")
        raise ConfigError([f"{place}: is not valid: {text!r} is not of the form memory://?default_ttl=SECONDS"])
    return int(found.group(1) or 0) if found else 0


def control_api(values: OptionValues, fields: Common) -> ControlApiConfig:
    listen = Listen(values["control_api", "listen"], values["control_api", "port"])
    return ControlApiConfig(
        **fields,
        database_url=values["database", "connection"],
        listen=listen,
        public_url=(values["control_api", "public_url"] or _url(listen)).rstrip("/"),
        region=values["control_api", "region"],
        token_keys_file=Path(values["control_api", "token_keys_file"]),
        token_expiration_seconds=values["control_api", "token_expiration_seconds"],
        images_dir=Path(values["control_api", "images_dir"]),
        image_size_cap_bytes=values["control_api", "image_size_cap"],
        image_count_total=values["control_api", "image_count_total"],
        image_size_total_mib=values["control_api", "image_size_total"],
        image_disk_reserve_mib=values["control_api", "image_disk_reserve_mib"],
        agent_down_seconds=values["control_api", "agent_down_time"],
        change_retention_seconds=values["control_api", "change_retention_seconds"],
        documents=_documents(values),
        policy=_policy_files(values),
    )


def _policy_files(values: OptionValues) -> PolicyConfig:
    places = [Path(file.path).absolute().parent for file in reversed(values.files)] or [Path.cwd()]

    def candidates(name: str) -> tuple[Path, ...]:
        return tuple(dict.fromkeys(folder / name for folder in places))

    return PolicyConfig(
        files=candidates(values["oslo_policy", "policy_file"]),
        required=any(
            (found.section, found.option) == ("oslo_policy", "policy_file")
            for file in values.files
            for found in file.assignments
        ),
        folders=tuple(candidates(name) for name in values["oslo_policy", "policy_dirs"]),
    )


def metadata_api(values: OptionValues, fields: Common) -> MetadataApiConfig:
    if "metadata" not in values[DEFAULT, "enabled_apis"]:
        place = values.where(metadata_api_options.NOVA, "enabled_apis")
        raise ConfigError([f"{place}: does not contain `metadata`, so the metadata API is off; add it to serve it"])
    secrets = (
        values["neutron", "metadata_proxy_shared_secret"],
        values["neutron", "metadata_proxy_shared_secret_previous"],
    )
    return MetadataApiConfig(
        **fields,
        database_url=values["database", "connection"],
        listen=Listen(values[DEFAULT, "metadata_listen"], values[DEFAULT, "metadata_listen_port"]),
        tls=_tls(values),
        workers=values[DEFAULT, "metadata_workers"],
        service_metadata_proxy=values["neutron", "service_metadata_proxy"],
        shared_secrets=tuple(secret for secret in secrets if secret),
        allow_empty_shared_secret=values["neutron", "allow_empty_shared_secret"],
        strict_hosts=strict_hosts(values, "guest_requests"),
        documents=_documents(values),
        vendor_data=_vendor_data(values),
        metadata_cache_expiration_seconds=values["api", "metadata_cache_expiration"],
    )


def _documents(values: OptionValues) -> DocumentsConfig:
    path = values["api", "vendordata_jsonfile_path"]
    return DocumentsConfig(
        dhcp_domain=values["api", "dhcp_domain"],
        vendor_data_providers=tuple(values["api", "vendordata_providers"]),
        vendor_data_file=Path(path) if path else None,
        policy=_policy(values),
    )


def _policy(values: OptionValues) -> ImdsOptions:
    return ImdsOptions(
        http_tokens=TokenMode(values["imds", "http_tokens"]),
        openstack_tokens=TokenMode(values["imds", "openstack_tokens"]),
        tokens_are_enforced=values["imds", "enforce_tokens"],
        http_endpoint=values["imds", "http_endpoint"],
        http_put_response_hop_limit=values["imds", "http_put_response_hop_limit"],
        instance_metadata_tags=values["imds", "instance_metadata_tags"],
        root_only=values["imds", "root_only"],
        user_data_minutes=values["imds", "user_data_minutes"],
    )


def _vendor_data(values: OptionValues) -> VendorDataConfig:
    authenticated = bool(values["vendordata_dynamic_auth", "auth_url"])
    return VendorDataConfig(
        dynamic_targets=tuple(_target(values, text) for text in values["api", "vendordata_dynamic_targets"]),
        dynamic_connect_timeout_seconds=values["api", "vendordata_dynamic_connect_timeout"],
        dynamic_read_timeout_seconds=values["api", "vendordata_dynamic_read_timeout"],
        dynamic_failure_fatal=values["api", "vendordata_dynamic_failure_fatal"],
        dynamic_ssl_certfile=values["api", "vendordata_dynamic_ssl_certfile"] or None,
        dynamic_auth=auth(values, metadata_api_options.VENDORDATA_AUTH) if authenticated else None,
    )


def _target(values: OptionValues, text: str) -> tuple[str, str]:
    """`cmdb@https://cmdb.example/vd` → (`cmdb`, `https://cmdb.example/vd`)"""
    name, at, url = text.partition("@")
    if not (name and at and url.startswith(("http://", "https://"))):
        place = values.where(metadata_api_options.NOVA_API, "vendordata_dynamic_targets")
        raise ConfigError([f"{place}: is not valid: {text!r} is not of the form name@http://…"])
    return name, url


def _tls(values: OptionValues) -> TlsFiles | None:
    if "metadata" not in values[DEFAULT, "enabled_ssl_apis"]:
        return None
    missing = [name for name in ("ssl_cert_file", "ssl_key_file") if not values["wsgi", name]]
    if missing:
        place = values.where(metadata_api_options.NOVA, "enabled_ssl_apis")
        raise ConfigError([f"{place}: contains `metadata`, so [wsgi] {name} must be set" for name in missing])
    authority = values["wsgi", "ssl_ca_file"]
    return TlsFiles(
        certificate=Path(values["wsgi", "ssl_cert_file"]),
        key=Path(values["wsgi", "ssl_key_file"]),
        client_authority=Path(authority) if authority else None,
    )


def _url(listen: Listen) -> str:
    """The URL at which this machine reaches a listener. A wildcard address is replaced by the loopback address."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listen.host, listen.host)
    return f"http://[{host}]:{listen.port}" if ":" in host else f"http://{host}:{listen.port}"
