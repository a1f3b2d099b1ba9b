"""Session tokens: each is valid for one instance, until its expiry, with one secret."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openimds.guest_identity import session_tokens
from openimds.guest_identity.session_tokens import NONCE_BYTES, TOKEN_CHARS, is_good_token, issue_token, parse_ttl
from openimds.guest_identity.signature import sign

A = "11111111-2222-4333-8444-555555555501"
B = "11111111-2222-4333-8444-555555555502"
NOW = 1_800_000_000
NONCE = bytes(range(NONCE_BYTES))


def token(secret: str = "s", instance: str = A, ttl_seconds: int = 60, nonce: bytes = NONCE) -> str:
    return issue_token(secret, instance, expires_at=NOW + ttl_seconds, nonce=nonce)


def is_good(text: str, *, secrets=("s",), instance: str = A, now: float = NOW) -> bool:
    return is_good_token(secrets, instance, text, now=now)


def test_token_is_valid_with_its_secret() -> None:
    assert len(token()) == TOKEN_CHARS
    assert is_good(token())
    assert is_good(token(ttl_seconds=21600))


def test_expired_token_is_rejected() -> None:
    assert is_good(token(ttl_seconds=60), now=NOW + 59.9)
    assert not is_good(token(ttl_seconds=60), now=NOW + 60)


def test_token_of_another_instance_is_rejected() -> None:
    assert not is_good(token(instance=B))


def test_tokens_of_all_configured_secrets_are_accepted() -> None:
    assert is_good(token(secret="old"), secrets=("new", "old"))
    assert is_good(token(secret="new"), secrets=("new", "old"))
    assert not is_good(token(secret="old"), secrets=("new",))
    assert not is_good(token(), secrets=())


def test_tokens_with_different_nonces_differ() -> None:
    assert token(nonce=b"a" * NONCE_BYTES) != token(nonce=b"b" * NONCE_BYTES)


def test_instance_signature_is_not_accepted_as_a_token_tag() -> None:
    raw = urlsafe_b64decode(token())
    for message in (A, raw[:-32].decode("latin-1")):
        forged = raw[:-32] + bytes.fromhex(sign("s", message))
        assert not is_good(urlsafe_b64encode(forged).decode())


@pytest.mark.parametrize("place", range(57))
def test_token_with_a_changed_byte_is_rejected(place: int) -> None:
    raw = bytearray(urlsafe_b64decode(token()))
    raw[place] ^= 1
    assert not is_good(urlsafe_b64encode(bytes(raw)).decode())


def test_unknown_version_is_rejected() -> None:
    """The tag of the token is right."""
    payload = b"\x02" + (NOW + 60).to_bytes(8, "big") + NONCE
    made = urlsafe_b64encode(payload + session_tokens._tag("s", A, NOW + 60, payload)).decode()
    assert len(made) == TOKEN_CHARS
    assert not is_good(made)


@pytest.mark.parametrize(
    "text",
    ["", "x", token()[:-1], token() + "A", token() + "\n", " " + token()[1:], "+" * TOKEN_CHARS, "é" * TOKEN_CHARS,
     "=" * TOKEN_CHARS, "A" * 10_000_000],
)  # fmt: skip
def test_malformed_tokens_are_rejected(text: str) -> None:
    assert not is_good(text)


@given(st.text(max_size=200) | st.binary(min_size=57, max_size=57).map(lambda raw: urlsafe_b64encode(raw).decode()))
def test_random_tokens_are_rejected(text: str) -> None:
    assert not is_good(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1", 1), ("60", 60), ("21600", 21600), ("00060", 60), (" 60 ", 60),
        (None, None), ("", None), ("0", None), ("21601", None), ("-1", None), ("+1", None), ("1.5", None), ("6e1", None),
        ("60s", None), ("abc", None), ("٦٠", None), ("60, 60", None), ("9" * 5000, None), ("6\n0", None), ("1_0", None),
    ],
)  # fmt: skip
def test_ttl_is_a_number_within_its_limits(text: str | None, seconds: int | None) -> None:
    assert parse_ttl(text) == seconds
