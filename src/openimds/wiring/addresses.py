"""The metadata service's addresses, which every guest knows by heart."""

from __future__ import annotations

METADATA_IPV4 = "169.254.169.254"
METADATA_IPV6 = "fe80::a9fe:a9fe"
METADATA_PORT = 80

METADATA_IPV4_ON_DEVICE = f"{METADATA_IPV4}/16"
"""As it stands on a DHCP port's device. The wide prefix is what neutron put there, and what people look for."""
METADATA_IPV6_ON_DEVICE = f"{METADATA_IPV6}/64"
