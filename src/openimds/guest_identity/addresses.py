"""Source addresses of clients, their MACs, and the saved SYN of a connection (Linux: TCP_SAVE_SYN = 2)."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

_EUI64_FILLER = b"\xff\xfe"
_UNIVERSAL_BIT = 0x02
_CHOSEN_BITS = 64

Address = IPv4Address | IPv6Address


def parse_address(text: str) -> Address:
    """Parses an address as proxies write it. Raises ValueError.

    `10.0.0.5`; `::ffff:10.0.0.5` is `10.0.0.5` (HAProxy listening on both families writes it so); `fe80::1%eth0` and
    `[fe80::1]` are `fe80::1`.
    """
    plain = text.strip().removeprefix("[").removesuffix("]").split("%", 1)[0]
    try:
        address = ip_address(plain)
    except ValueError:
        raise ValueError(f"{text[:64]!r} is not an IP address") from None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def device_in(text: str) -> str:
    """Returns the device of a link-local address: `fe80::1%qr-01e7ee7b-98` → `qr-01e7ee7b-98`. Empty without one."""
    return text.partition("%")[2]


def client_key(listener: str, mac: str, peer: str) -> str:
    """Returns the key by which the requests of a client without a port are counted. Raises ValueError.

    `listener`: `network:<id>` or `router:<id>`. `peer`: an address; a link-local one has its device behind a `%`.

    On a network the key is the MAC, whatever addresses the client uses. Behind a router it includes the address (of
    IPv6, the /64), because the owner of each network chooses its MACs and could use those of another network's clients.
    """
    if not mac or not listener.startswith("router:"):
        return mac or peer
    address = parse_address(peer)
    place = int(address) >> _CHOSEN_BITS if address.version == 6 else int(address)
    return f"{mac} {address.version}:{place:x}%{device_in(peer)}"


def canonical(text: str) -> str:
    """Returns the canonical text of an address. Raises ValueError."""
    return str(parse_address(text))


def mac_from_eui64(address: Address) -> str | None:
    """Returns the MAC in a link-local IPv6 address of the form EUI-64 (RFC 4291 appendix A).

    `fe80::f816:3eff:fe54:9388` → `fa:16:3e:54:93:88`; None if the address is not link-local or has no MAC
    (privacy and stable-privacy addresses, RFC 4941 and 7217).
    """
    if not isinstance(address, IPv6Address) or not address.is_link_local:
        return None
    interface = address.packed[8:]
    if interface[3:5] != _EUI64_FILLER:
        return None
    octets = bytes([interface[0] ^ _UNIVERSAL_BIT]) + interface[1:3] + interface[5:]
    return octets.hex(":")


_ETHERNET_BYTES = 14
_SOURCE = slice(6, 12)
_IP_TYPES = {0x0800: 4, 0x86DD: 6}
_NO_MAC = bytes(6)


def source_mac(saved_syn: bytes) -> str:
    """Returns the source MAC of a saved SYN, such as `fa:16:3e:54:93:88`. Empty without an Ethernet header.

    The kernel returns the link-layer, IP and TCP headers without the lengths of these headers. The first one is an
    Ethernet header if its type field names the IP version of the next header.
    """
    if len(saved_syn) <= _ETHERNET_BYTES:
        return ""
    version = _IP_TYPES.get(int.from_bytes(saved_syn[12:14], "big"))
    if version is None or saved_syn[_ETHERNET_BYTES] >> 4 != version:
        return ""
    mac = saved_syn[_SOURCE]
    return "" if mac == _NO_MAC else mac.hex(":")
