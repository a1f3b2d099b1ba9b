"""Passwords: bcrypt over a SHA-256 of the password, so that its 72-byte limit cuts nothing off."""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache

import bcrypt

ROUNDS = 12
"""About 0.2 s a check on a core of 2026: dear to guess, cheap enough to log in."""


def hash_password(password: str, rounds: int = ROUNDS) -> str:
    """The text to keep: `$2b$12$…`."""
    return bcrypt.hashpw(_digest(password), bcrypt.gensalt(rounds)).decode()


def verify_password(password: str, hashed: str | None, rounds: int = ROUNDS) -> bool:
    """Is it the password? For an unknown user (`hashed` None) it takes as long to say no."""
    if hashed is None:
        bcrypt.checkpw(_digest(password), _nobody(rounds))
        return False
    return bcrypt.checkpw(_digest(password), hashed.encode())


def _digest(password: str) -> bytes:
    return base64.b64encode(hashlib.sha256(password.encode()).digest())


@lru_cache
def _nobody(rounds: int) -> bytes:
    return bcrypt.hashpw(b"nobody has this password", bcrypt.gensalt(rounds))
