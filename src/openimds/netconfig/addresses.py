"""The well-known addresses of the metadata service, and the link-local address of a MAC."""

from __future__ import annotations

from ipaddress import IPv6Address

METADATA_IPV4 = "169.254.169.254"
METADATA_IPV6 = "fe80::a9fe:a9fe"
METADATA_PORT = 80

METADATA_IPV4_ON_DEVICE = f"{METADATA_IPV4}/16"
"""The address on the device of a DHCP port. Neutron uses the same prefix length."""
METADATA_IPV6_ON_DEVICE = f"{METADATA_IPV6}/64"


def link_local(mac: str) -> str:
    """The kernel's address for a device: `fa:16:3e:00:00:01` → `fe80::f816:3eff:fe00:1` (RFC 4291, appendix A)."""
    parts = bytes.fromhex(mac.replace(":", ""))
    return str(IPv6Address(b"\xfe\x80" + bytes(6) + bytes([parts[0] ^ 2]) + parts[1:3] + b"\xff\xfe" + parts[3:]))
