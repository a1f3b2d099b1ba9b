"""Passwords: bcrypt over a SHA-256 of the password, so that its 72-byte limit cuts nothing off."""

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
"""About 0.2 s a check on a core of 2026: dear to guess, cheap enough to log in."""

VERIFIED_SECONDS = 300.0
MAX_VERIFIED = 10_000
"""Users whose last verified password is remembered."""


def hash_password(password: str, rounds: int = ROUNDS) -> str:
    """The text to keep: `$2b$12$…`."""
    return bcrypt.hashpw(_digest(password), bcrypt.gensalt(rounds)).decode()


def verify_password(password: str, hashed: str | None, rounds: int = ROUNDS) -> bool:
    """Is it the password? For an unknown user (`hashed` None) it takes as long to say no."""
    if hashed is None:
        bcrypt.checkpw(_digest(password), _nobody(rounds))
        return False
    return bcrypt.checkpw(_digest(password), hashed.encode())


class VerifiedPasswords:
    """Passwords that bcrypt verified in the last minutes, so that the next login of the same client is cheap.

    It holds an HMAC of the password and of the stored hash, with a key that lives in this process only. A new password
    has a new stored hash, so the entry of the old one does not match any more. Threads may share it.
    """

    def __init__(self, seconds: float = VERIFIED_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._key = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._macs: TTLCache[str, bytes] = TTLCache(MAX_VERIFIED, seconds, clock)
        """By user."""

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
def _nobody(rounds: int) -> bytes:
    return bcrypt.hashpw(b"nobody has this password", bcrypt.gensalt(rounds))
