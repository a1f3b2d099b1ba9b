"""Checked option values → an API's frozen value: one function a program."""

from __future__ import annotations

from pathlib import Path

from openimds.config.builders.common import Common, auth, strict_hosts
from openimds.config.ini_reader import ConfigError
from openimds.config.loader import OptionValues
from openimds.config.options import DEFAULT
from openimds.config.options import metadata_api as metadata_api_options
from openimds.config.settings import (
    ControlApiConfig,
    DocumentsConfig,
    Listen,
    MetadataApiConfig,
    TlsFiles,
    VendorDataConfig,
)
from openimds.metadata.imds_options import ImdsOptions, TokenMode


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
        agent_down_seconds=values["control_api", "agent_down_time"],
        change_retention_seconds=values["control_api", "change_retention_seconds"],
        documents=_documents(values),
    )


def metadata_api(values: OptionValues, fields: Common) -> MetadataApiConfig:
    if "metadata" not in values[DEFAULT, "enabled_apis"]:
        place = values.where(metadata_api_options.NOVA, "enabled_apis")
        raise ConfigError([f"{place}: does not name `metadata`: the metadata API is switched off; add it to serve it"])
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
        raise ConfigError([f"{place}: names `metadata`, so [wsgi] {name} must be set" for name in missing])
    authority = values["wsgi", "ssl_ca_file"]
    return TlsFiles(
        certificate=Path(values["wsgi", "ssl_cert_file"]),
        key=Path(values["wsgi", "ssl_key_file"]),
        client_authority=Path(authority) if authority else None,
    )


def _url(listen: Listen) -> str:
    """An address that listens everywhere is reached at this machine's own."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listen.host, listen.host)
    return f"http://[{host}]:{listen.port}" if ":" in host else f"http://{host}:{listen.port}"
