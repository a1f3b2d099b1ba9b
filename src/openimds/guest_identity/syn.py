"""The packet that opened a connection, as Linux keeps it with its link-layer header (TCP_SAVE_SYN = 2)."""

from __future__ import annotations

_ETHERNET_BYTES = 14
_SOURCE = slice(6, 12)
_IP_TYPES = {0x0800: 4, 0x86DD: 6}
_NOBODY = bytes(6)


def source_mac(saved_syn: bytes) -> str:
    """`fa:16:3e:54:93:88`; empty when the packet was not kept, or not with an Ethernet header.

    The kernel hands the link-layer, IP and TCP headers in one piece without saying where each ends: it is Ethernet's
    when its type field names the IP version that follows.
    """
    if len(saved_syn) <= _ETHERNET_BYTES:
        return ""
    version = _IP_TYPES.get(int.from_bytes(saved_syn[12:14], "big"))
    if version is None or saved_syn[_ETHERNET_BYTES] >> 4 != version:
        return ""
    mac = saved_syn[_SOURCE]
    return "" if mac == _NOBODY else mac.hex(":")
