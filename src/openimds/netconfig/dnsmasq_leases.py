"""dnsmasq's lease file, and which of its leases stand in another port's way.

dnsmasq does not give an address to its new owner while the old one's lease runs, so such leases are released.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

_MAC = re.compile(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}")


@dataclass(frozen=True, slots=True)
class HeldLease:
    """A line of the lease file. IPv6 leases name their holder by `iaid` and `client_id` (its DUID), not by a MAC."""

    ip_address: str
    mac_address: str | None
    client_id: str | None
    iaid: str | None = None


@dataclass(frozen=True, slots=True)
class LeaseFile:
    leases: tuple[HeldLease, ...]
    server_duid: str | None
    """Needed to release an IPv6 lease."""


def parse_leases(text: str) -> LeaseFile:
    """The lease file's text; lines that are not whole (dnsmasq is writing), or are no leases, are left out.

    `1796000000 fa:16:3e:54:93:88 192.168.40.5 vm1 01:fa:16:3e:54:93:88`; after a line `duid 00:01:…`, IPv6:
    `1796000000 1234567 2001:db8::5 vm1 00:01:00:01:…`
    """
    duid: str | None = None
    leases: list[HeldLease] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) == 2 and words[0] == "duid":
            duid = words[1]
        elif len(words) == 5 and _is_lease(words, is_ipv6=duid is not None):
            leases.append(_lease(words, is_ipv6=duid is not None))
    return LeaseFile(tuple(leases), duid)


def without_leases(text: str, addresses: Collection[str]) -> str:
    """The lease file's text without the lines that lease one of `addresses`."""
    return "".join(
        line for line in text.splitlines(keepends=True) if not any(word in addresses for word in line.split()[2:3])
    )


def parse_hosts(text: str) -> dict[str, str]:
    """Address → MAC of a host file: `fa:16:3e:54:93:88,set:port-…,host-192-168-40-5.openstacklocal,192.168.40.5`."""
    entries = [line.split(",") for line in text.splitlines() if "," in line]
    return {entry[-1].strip("[]"): entry[0].lower() for entry in entries}


def stale_leases(
    held: Iterable[HeldLease], wanted: Mapping[str, str], former: Mapping[str, str]
) -> Iterator[HeldLease]:
    """The leases that are no longer their holders'. `wanted` and `former`: address → MAC, now and before.

    An IPv6 lease does not tell its holder's MAC: it is stale when its address is nobody's, or another port's than before.
    """
    for lease in held:
        owner = wanted.get(lease.ip_address)
        holder = lease.mac_address or former.get(lease.ip_address, owner)
        if owner is None or owner != holder:
            yield lease


def _is_lease(words: list[str], *, is_ipv6: bool) -> bool:
    _expiry, holder, address, _name, _client = words
    try:
        version = ipaddress.ip_address(address).version
    except ValueError:
        return False
    if is_ipv6:
        return version == 6 and holder.removeprefix("T").isdecimal()
    return version == 4 and _MAC.fullmatch(holder) is not None


def _lease(words: list[str], *, is_ipv6: bool) -> HeldLease:
    _expiry, holder, address, _name, client = words
    client_id = None if client == "*" else client
    if is_ipv6:
        return HeldLease(address, None, client_id, iaid=holder.removeprefix("T"))
    return HeldLease(address, holder.lower(), client_id)
