"""Everything that a document is rendered from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from openimds.metadata.imds_options import Policy
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
    policy: Policy = field(default_factory=Policy)
    """Of instances whose properties say nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
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
