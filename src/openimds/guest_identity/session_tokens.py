"""Session tokens (the IMDSv2 protocol). A token proves that its holder read it inside the instance.

A token is 76 characters, `base64url(version | expires_at | nonce | tag)`:

    version     1 byte, 1
    expires_at  8 bytes, seconds since the epoch, big-endian
    nonce       16 random bytes, so that no two tokens are equal
    tag         32 bytes, HMAC-SHA256 of the preceding bytes

Rules of this file:

1. Tokens are not stored. Each worker and replica with the same secret accepts them.
2. The key of the tag is derived from the shared secret, the day on which the token expires, and the instance ID. Each
   instance has a key of its own, and no key signs tokens of more than one day.
3. The parent of this key is derived from the shared secret by name. So no other signature by the shared secret (of an
   instance ID or a provider ID) can serve as the key of a token.
4. Length and alphabet are checked before decoding. The response does not say why a token is invalid.
"""

from __future__ import annotations

import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence

MIN_TTL_SECONDS = 1
MAX_TTL_SECONDS = 21600
"""Six hours, as in EC2."""
NONCE_BYTES = 16
TOKEN_CHARS = 76

_VERSION = b"\x01"
_PURPOSE = b"openimds session token 1"
_TAG_BYTES = 32
_KEY_SECONDS = 86400
_FORM = re.compile(rf"[A-Za-z0-9_-]{{{TOKEN_CHARS}}}", re.ASCII)
_TTL_FORM = re.compile(r"[0-9]{1,9}", re.ASCII)


def parse_ttl(text: str | None) -> int | None:
    """Returns the seconds of the TTL header, 1 to 21600. None for any other value."""
    if text is None or not _TTL_FORM.fullmatch(text.strip(" \t")):
        return None
    ttl_seconds = int(text)
    return ttl_seconds if MIN_TTL_SECONDS <= ttl_seconds <= MAX_TTL_SECONDS else None


def issue_token(secret: str, instance_id: str, *, expires_at: int, nonce: bytes) -> str:
    """Returns a token that is valid until `expires_at` (seconds since the epoch). `nonce` is 16 random bytes."""
    payload = _VERSION + expires_at.to_bytes(8, "big") + nonce
    return urlsafe_b64encode(payload + _tag(secret, instance_id, expires_at, payload)).decode()


def is_good_token(secrets: Sequence[str], instance_id: str, token: str, *, now: float) -> bool:
    """Returns whether the token is for this instance, signed with one of the secrets, and not expired.

    All secrets are compared, each in constant time. During a rotation several secrets are valid.
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
