"""Everything that a document is rendered from.

DocumentSettings as plain values and back: what the control API tells metadata agents that answer by themselves.

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
    """What the deployment says about documents, the same for every instance."""

    dhcp_domain: str = "novalocal"
    """Appended to host names; empty for none."""
    static_vendor_data: Mapping[str, Any] | None = field(default_factory=dict)
    """vendor_data.json's content; None when the StaticJSON provider is not configured, which makes it a 404."""
    dynamic_vendor_data: bool = False
    """vendor_data2.json also has what the configured targets answer."""
    policy: ImdsOptions = field(default_factory=ImdsOptions)
    """Of instances whose properties say nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderContext:
    """One instance, read by somebody on some day."""

    instance: Instance
    settings: DocumentSettings
    today: str
    """`2026-11-21`, UTC."""
    address: str | None
    """The address that asks, where it is known: `local-ipv4` of an instance without a fixed IP."""
    random_bytes: Callable[[int], bytes]
    """As os.urandom."""

    @property
    def hostname(self) -> str:
        """With the domain."""
        domain = self.settings.dhcp_domain
        return f"{self.instance.hostname}.{domain}" if domain else self.instance.hostname


def settings_form(settings: DocumentSettings) -> dict[str, Any]:
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


def settings_of(form: Mapping[str, Any]) -> DocumentSettings:
    """Raises KeyError, TypeError or ValueError when it is not such a form."""
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
