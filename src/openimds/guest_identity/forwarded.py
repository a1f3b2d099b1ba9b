"""Did the guest's own request carry X-Forwarded-For? Then a proxy in the guest passes on what somebody else sent."""

from __future__ import annotations

from openimds.guest_identity.headers import FORWARDED_FOR, Headers, values

GUEST_FORWARDED = "X-Openimds-Guest-Forwarded"
"""Says so from hop to hop: our namespace proxies replace the guest's X-Forwarded-For by their own, and set this."""


def was_forwarded(headers: Headers, *, own_addresses: int) -> bool:
    """`own_addresses`: how many addresses in X-Forwarded-For are not the guest's but of the hops since.

    At the metadata agent 1: stock neutron's namespace proxies append theirs behind what the guest sent. At the
    metadata API 1 behind an agent, 0 where guests come themselves, whose own word on hops in between is none.
    """
    if values(headers, "Forwarded") or (own_addresses and values(headers, GUEST_FORWARDED)):
        return True
    return sum(len(value.split(",")) for value in values(headers, FORWARDED_FOR)) > own_addresses
