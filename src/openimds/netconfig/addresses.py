"""The metadata service's addresses, which every guest knows by heart; and the one that a device has by its MAC."""

from __future__ import annotations

from ipaddress import IPv6Address

METADATA_IPV4 = "169.254.169.254"
METADATA_IPV6 = "fe80::a9fe:a9fe"
METADATA_PORT = 80

METADATA_IPV4_ON_DEVICE = f"{METADATA_IPV4}/16"
"""As it stands on a DHCP port's device. The wide prefix is what neutron put there, and what people look for."""
METADATA_IPV6_ON_DEVICE = f"{METADATA_IPV6}/64"


def link_local(mac: str) -> str:
    """`fa:16:3e:00:00:01` → `fe80::f816:3eff:fe00:1`: what the kernel gives a device (RFC 4291, appendix A)."""
    parts = bytes.fromhex(mac.replace(":", ""))
    return str(IPv6Address(b"\xfe\x80" + bytes(6) + bytes([parts[0] ^ 2]) + parts[1:3] + b"\xff\xfe" + parts[3:]))
