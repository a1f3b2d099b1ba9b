"""Tokens: good for one instance, until one moment, with one secret; nothing else is."""

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


def test_good_on_any_machine_that_has_the_secret() -> None:
    assert len(token()) == TOKEN_CHARS
    assert is_good(token())
    assert is_good(token(ttl_seconds=21600))


def test_ends_on_time() -> None:
    assert is_good(token(ttl_seconds=60), now=NOW + 59.9)
    assert not is_good(token(ttl_seconds=60), now=NOW + 60)


def test_of_another_instance() -> None:
    assert not is_good(token(instance=B))


def test_while_the_secret_is_changed() -> None:
    assert is_good(token(secret="old"), secrets=("new", "old"))
    assert is_good(token(secret="new"), secrets=("new", "old"))
    assert not is_good(token(secret="old"), secrets=("new",))
    assert not is_good(token(), secrets=())


def test_two_are_never_equal() -> None:
    assert token(nonce=b"a" * NONCE_BYTES) != token(nonce=b"b" * NONCE_BYTES)


def test_keys_are_not_what_the_secret_signs_elsewhere() -> None:
    raw = urlsafe_b64decode(token())
    for message in (A, raw[:-32].decode("latin-1")):
        forged = raw[:-32] + bytes.fromhex(sign("s", message))
        assert not is_good(urlsafe_b64encode(forged).decode())


@pytest.mark.parametrize("place", range(57))
def test_no_byte_can_be_changed(place: int) -> None:
    raw = bytearray(urlsafe_b64decode(token()))
    raw[place] ^= 1
    assert not is_good(urlsafe_b64encode(bytes(raw)).decode())


def test_a_version_to_come() -> None:
    """Even when its tag is right."""
    payload = b"\x02" + (NOW + 60).to_bytes(8, "big") + NONCE
    made = urlsafe_b64encode(payload + session_tokens._tag("s", A, NOW + 60, payload)).decode()
    assert len(made) == TOKEN_CHARS
    assert not is_good(made)


@pytest.mark.parametrize(
    "text",
    ["", "x", token()[:-1], token() + "A", token() + "\n", " " + token()[1:], "+" * TOKEN_CHARS, "é" * TOKEN_CHARS,
     "=" * TOKEN_CHARS, "A" * 10_000_000],
)  # fmt: skip
def test_no_tokens_at_all(text: str) -> None:
    assert not is_good(text)


@given(st.text(max_size=200) | st.binary(min_size=57, max_size=57).map(lambda raw: urlsafe_b64encode(raw).decode()))
def test_nothing_made_up_is_good(text: str) -> None:
    assert not is_good(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1", 1), ("60", 60), ("21600", 21600), ("00060", 60), (" 60 ", 60),
        (None, None), ("", None), ("0", None), ("21601", None), ("-1", None), ("+1", None), ("1.5", None), ("6e1", None),
        ("60s", None), ("abc", None), ("٦٠", None), ("60, 60", None), ("9" * 5000, None), ("6\n0", None), ("1_0", None),
    ],
)  # fmt: skip
def test_ttl(text: str | None, seconds: int | None) -> None:
    assert parse_ttl(text) == seconds
