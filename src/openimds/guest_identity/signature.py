"""The shared secret's signature: lower-case hex HMAC-SHA256 of the instance (or provider) id, as nova and neutron do."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from functools import lru_cache

_KEPT_SIGNATURES = 4096
"""What is kept is the right signature of an id, never a verdict: a given one is compared with it every time."""


@lru_cache(maxsize=_KEPT_SIGNATURES)
def sign(secret: str, message: str) -> str:
    """`sign("SECRET_KEY", "<uuid>")` → 64 lower-case hex digits."""
    # Headers are read as Latin-1 and signed as UTF-8: nova's way, which only shows in ids that are no UUIDs.
    return hmac.digest(secret.encode(), message.encode(), "sha256").hex()


def matching_secret(secrets: Sequence[str], message: str, signature: str) -> int | None:
    """Which of the secrets made this signature: its place in the list (0 is the newest), or None.

    During a rotation several secrets are good. All of them are tried, each in constant time, so that the time taken
    tells nothing (OSSA-2014-024).
    """
    given = signature.encode("latin-1", "replace")
    found: int | None = None
    for place, secret in enumerate(secrets):
        good = hmac.compare_digest(sign(secret, message).encode(), given)
        if good and found is None:
            found = place
    return found


def verify(secrets: Sequence[str], message: str, signature: str) -> bool:
    """Was the message signed with one of these secrets?"""
    return matching_secret(secrets, message, signature) is not None
