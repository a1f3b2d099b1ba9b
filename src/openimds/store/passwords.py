"""Password hashes: bcrypt of the SHA-256 of a password. bcrypt itself would ignore all bytes after the 72nd."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable
from functools import lru_cache

import bcrypt
from cachetools import TTLCache

ROUNDS = 12
"""A check takes about 0.2 s on a core of 2026: expensive for guesses, acceptable for a login."""

VERIFIED_SECONDS = 300.0
MAX_VERIFIED = 10_000
"""Users with an entry in VerifiedPasswords."""


def hash_password(password: str, rounds: int = ROUNDS) -> str:
    """The hash of a password: `$2b$12$…`."""
    return bcrypt.hashpw(_digest(password), bcrypt.gensalt(rounds)).decode()


def verify_password(password: str, hashed: str | None, rounds: int = ROUNDS) -> bool:
    """Whether the password has this hash. The check takes as long for an unknown user (`hashed` None)."""
    if hashed is None:
        bcrypt.checkpw(_digest(password), _unused_hash(rounds))
        return False
    return bcrypt.checkpw(_digest(password), hashed.encode())


class VerifiedPasswords:
    """A cache of passwords that bcrypt verified in the last VERIFIED_SECONDS. The next login of the user needs no bcrypt.

    An entry is an HMAC of the password and the stored hash, with a random key of this process. A new password has a new
    stored hash, so that the entry of the old password no longer matches. Thread-safe.
    """

    def __init__(self, seconds: float = VERIFIED_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._key = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._macs: TTLCache[str, bytes] = TTLCache(MAX_VERIFIED, seconds, clock)
        """HMACs by user id."""

    def add(self, user_id: str, password: str, hashed: str) -> None:
        with self._lock:
            self._macs[user_id] = self._mac(password, hashed)

    def contains(self, user_id: str, password: str, hashed: str) -> bool:
        with self._lock:
            known = self._macs.get(user_id)
        return known is not None and hmac.compare_digest(known, self._mac(password, hashed))

    def remove(self, user_id: str) -> None:
        with self._lock:
            self._macs.pop(user_id, None)

    def _mac(self, password: str, hashed: str) -> bytes:
        return hmac.digest(self._key, hashed.encode() + b"\0" + password.encode(), "sha256")


def _digest(password: str) -> bytes:
    return base64.b64encode(hashlib.sha256(password.encode()).digest())


@lru_cache
def _unused_hash(rounds: int) -> bytes:
    return bcrypt.hashpw(b"password of no user", bcrypt.gensalt(rounds))
