"""The detection of forwarded requests."""

from __future__ import annotations

import pytest

from openimds.guest_identity.headers import was_forwarded

HOP = (b"x-forwarded-for", b"10.0.0.5")


@pytest.mark.parametrize(
    ("headers", "own_addresses", "forwarded"),
    [
        ((), 0, False),
        ((HOP,), 1, False),
        ((HOP,), 0, True),
        (((b"X-FORWARDED-FOR", b"203.0.113.9, 10.0.0.5"),), 1, True),
        (((b"X-Forwarded-For", b"203.0.113.9"), HOP), 1, True),
        (((b"Forwarded", b"for=203.0.113.9"), HOP), 1, True),
        (((b"X-Openimds-Guest-Forwarded", b"1"), HOP), 1, True),
        (((b"X-Openimds-Guest-Forwarded", b"1"),), 0, False),
    ],
)
def test_forwarded_requests_are_recognised(headers, own_addresses: int, forwarded: bool) -> None:
    assert was_forwarded(headers, own_addresses=own_addresses) is forwarded
