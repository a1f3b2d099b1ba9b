"""Session tokens (the IMDSv2 protocol): who holds one has read it inside the instance that it was made for.

A token is 76 characters, `base64url(version | expires_at | nonce | tag)`:

    version     1 byte, 1
    expires_at  8 bytes, seconds since the epoch, big-endian
    nonce       16 random bytes: two tokens are never equal
    tag         32 bytes, HMAC-SHA256 over what stands before it

Rules of this file:

1. Nothing is stored: every worker and every replica with the same secret takes every other's tokens.
2. The tag's key is derived from the shared secret, the day on which the token ends and the instance's id. So another
   instance's token has another key, and no key signs for longer than a day.
3. That key's parent is not the shared secret itself but is derived from it by name: nothing that is signed elsewhere
   with the shared secret (instance ids, ids of providers) can ever be taken for a token's key.
4. Length and alphabet are judged before anything is decoded; what is wrong with a token is never told.
"""

from __future__ import annotations

import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence

MIN_TTL_SECONDS = 1
MAX_TTL_SECONDS = 21600
"""Six hours, as EC2 has it."""
NONCE_BYTES = 16
TOKEN_CHARS = 76

_VERSION = b"\x01"
_PURPOSE = b"openimds session token 1"
_TAG_BYTES = 32
_KEY_SECONDS = 86400
_FORM = re.compile(rf"[A-Za-z0-9_-]{{{TOKEN_CHARS}}}", re.ASCII)
_TTL_FORM = re.compile(r"[0-9]{1,9}", re.ASCII)


def parse_ttl(text: str | None) -> int | None:
    """The header's number of seconds, 1 to 21600; None for everything else."""
    if text is None or not _TTL_FORM.fullmatch(text.strip(" \t")):
        return None
    ttl_seconds = int(text)
    return ttl_seconds if MIN_TTL_SECONDS <= ttl_seconds <= MAX_TTL_SECONDS else None


def issue_token(secret: str, instance_id: str, *, expires_at: int, nonce: bytes) -> str:
    """A token that is good before `expires_at` (seconds since the epoch). `nonce` is 16 random bytes."""
    payload = _VERSION + expires_at.to_bytes(8, "big") + nonce
    return urlsafe_b64encode(payload + _tag(secret, instance_id, expires_at, payload)).decode()


def is_good_token(secrets: Sequence[str], instance_id: str, token: str, *, now: float) -> bool:
    """Was it made for this instance with one of these secrets, and has it not ended?

    All secrets are tried, each in constant time: several are good while the secret is being changed.
    """
    if not _FORM.fullmatch(token):
        return False
    raw = urlsafe_b64decode(token)
    payload, tag = raw[:-_TAG_BYTES], raw[-_TAG_BYTES:]
    expires_at = int.from_bytes(payload[1:9], "big")
    made_here = [hmac.compare_digest(_tag(secret, instance_id, expires_at, payload), tag) for secret in secrets]
    return any(made_here) and payload[:1] == _VERSION and now < expires_at


def _tag(secret: str, instance_id: str, expires_at: int, payload: bytes) -> bytes:
    parent = hmac.digest(_PURPOSE, secret.encode(), "sha256")
    day = (expires_at // _KEY_SECONDS).to_bytes(8, "big")
    key = hmac.digest(parent, day + instance_id.encode(), "sha256")
    return hmac.digest(key, payload, "sha256")
