"""The MAC in the packet that opened a connection."""

from __future__ import annotations

import pytest

from openimds.guest_identity.addresses import source_mac

ETHERNET = bytes.fromhex("fa163e00000b fa163e00000a")
IPV4 = bytes.fromhex("4500003c4bd040004006e97f0a0000050a000001")
IPV6 = bytes.fromhex("60000000") + bytes(36)


@pytest.mark.parametrize(
    ("saved", "mac"),
    [
        (ETHERNET + b"\x08\x00" + IPV4, "fa:16:3e:00:00:0a"),
        (ETHERNET + b"\x86\xdd" + IPV6, "fa:16:3e:00:00:0a"),
        (ETHERNET + b"\x86\xdd" + IPV4, ""),
        (ETHERNET + b"\x08\x06" + IPV4, ""),
        (bytes(12) + b"\x08\x00" + IPV4, ""),  # a packet of the loopback device
        (IPV4 + bytes(40), ""),  # saved without a link-layer header
        (ETHERNET, ""),
        (b"", ""),
    ],
)
def test_the_source_mac_is_read_from_the_saved_packet(saved: bytes, mac: str) -> None:
    assert source_mac(saved) == mac
