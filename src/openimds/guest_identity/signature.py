"""Signatures by the shared secret: lower-case hex HMAC-SHA256 of an instance or provider ID, as in Nova and Neutron."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from functools import lru_cache

_MAX_CACHED_SIGNATURES = 4096
"""The cache has the valid signature of an ID. A received signature is compared with it each time."""


@lru_cache(maxsize=_MAX_CACHED_SIGNATURES)
def sign(secret: str, message: str) -> str:
    """Returns 64 lower-case hexadecimal digits."""
    # Headers are decoded as Latin-1 and signed as UTF-8, as in Nova. This affects only IDs that are not UUIDs.
    return hmac.digest(secret.encode(), message.encode(), "sha256").hex()


def matching_secret(secrets: Sequence[str], message: str, signature: str) -> int | None:
    """Returns the index of the secret that made the signature (0 is the newest). None for an invalid signature.

    During a rotation several secrets are valid. All are compared, each in constant time, so that the duration reveals
    nothing (OSSA-2014-024).
    """
    given = signature.encode("latin-1", "replace")
    found: int | None = None
    for place, secret in enumerate(secrets):
        good = hmac.compare_digest(sign(secret, message).encode(), given)
        if good and found is None:
            found = place
    return found


def verify(secrets: Sequence[str], message: str, signature: str) -> bool:
    """Returns whether one of the secrets made the signature."""
    return matching_secret(secrets, message, signature) is not None
