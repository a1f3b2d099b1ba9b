"""RenderContext: everything that a document is rendered from. DocumentSettings: the deployment's part of it.

The control API publishes DocumentSettings as JSON to metadata agents:

{"dhcp_domain": "novalocal", "static_vendor_data": {} | null, "dynamic_vendor_data": false,
 "policy": {"http_tokens": "optional", "openstack_tokens": "optional", "http_endpoint": true,
            "http_put_response_hop_limit": 1, "instance_metadata_tags": false, "tokens_are_enforced": false,
            "root_only": false, "user_data_minutes": 0}}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from openimds.metadata.imds_options import ImdsOptions, TokenMode
from openimds.resources.instance import Instance


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentSettings:
    """The deployment's settings for documents. All instances share them."""

    dhcp_domain: str = "novalocal"
    """Appended to host names. Empty if host names have no domain."""
    static_vendor_data: Mapping[str, Any] | None = field(default_factory=dict)
    """Content of vendor_data.json. None if the StaticJSON provider is not configured; the document is then a 404."""
    dynamic_vendor_data: bool = False
    """True if vendor_data2.json includes the responses of dynamic targets."""
    policy: ImdsOptions = field(default_factory=ImdsOptions)
    """Options of instances whose properties set none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderContext:
    """The input of one rendered document: the instance, the settings, and data of the request."""

    instance: Instance
    settings: DocumentSettings
    today: str
    """`2026-11-21`, UTC."""
    address: str | None
    """The client's address if it is known: `local-ipv4` of an instance without a fixed IP."""
    random_bytes: Callable[[int], bytes]
    """Returns that many random bytes, like os.urandom."""

    @property
    def hostname(self) -> str:
        """The host name with the domain."""
        domain = self.settings.dhcp_domain
        return f"{self.instance.hostname}.{domain}" if domain else self.instance.hostname


def settings_to_json(settings: DocumentSettings) -> dict[str, Any]:
    policy = settings.policy
    vendor_data = settings.static_vendor_data
    return {
        "dhcp_domain": settings.dhcp_domain,
        "static_vendor_data": None if vendor_data is None else dict(vendor_data),
        "dynamic_vendor_data": settings.dynamic_vendor_data,
        "policy": {
            "http_tokens": policy.http_tokens.value,
            "openstack_tokens": policy.openstack_tokens.value,
            "http_endpoint": policy.http_endpoint,
            "http_put_response_hop_limit": policy.http_put_response_hop_limit,
            "instance_metadata_tags": policy.instance_metadata_tags,
            "tokens_are_enforced": policy.tokens_are_enforced,
            "root_only": policy.root_only,
            "user_data_minutes": policy.user_data_minutes,
        },
    }


def settings_from_json(form: Mapping[str, Any]) -> DocumentSettings:
    """Parses the result of settings_to_json. Raises KeyError, TypeError or ValueError for anything else."""
    policy = form["policy"]
    vendor_data = form["static_vendor_data"]
    return DocumentSettings(
        dhcp_domain=str(form["dhcp_domain"]),
        static_vendor_data=None if vendor_data is None else dict(vendor_data),
        dynamic_vendor_data=bool(form["dynamic_vendor_data"]),
        policy=ImdsOptions(
            http_tokens=TokenMode(policy["http_tokens"]),
            openstack_tokens=TokenMode(policy["openstack_tokens"]),
            http_endpoint=bool(policy["http_endpoint"]),
            http_put_response_hop_limit=int(policy["http_put_response_hop_limit"]),
            instance_metadata_tags=bool(policy["instance_metadata_tags"]),
            tokens_are_enforced=bool(policy["tokens_are_enforced"]),
            root_only=bool(policy.get("root_only", False)),
            user_data_minutes=int(policy.get("user_data_minutes", 0)),
        ),
    )
