from __future__ import annotations

import pytest

from openimds.metadata.outcome import HTML, Document, MetadataError, StorePassword
from openimds.metadata.password import MAX_PASSWORD_BYTES, handle_password, password_refused, password_stored


def test_missing_password_is_read_as_empty(make_context) -> None:
    answer = handle_password(make_context().instance, "GET", None)
    assert answer == Document(200, HTML, b"")


def test_password_is_read_as_it_was_posted(make_context) -> None:
    assert handle_password(make_context(password="pw\n").instance, "GET", None) == Document(200, HTML, b"pw\n")


@pytest.mark.parametrize("body", [b"", b"x", b"a\nb\n", "é".encode(), b"x" * MAX_PASSWORD_BYTES])
def test_posted_password_is_stored(make_context, body: bytes) -> None:
    assert handle_password(make_context().instance, "POST", body) == StorePassword(body.decode())


@pytest.mark.parametrize(
    ("method", "body", "stored", "status"),
    [
        ("HEAD", None, None, 400),
        ("PUT", b"x", None, 400),
        ("post", b"x", None, 400),
        ("POST", None, None, 411),
        ("POST", b"x" * (MAX_PASSWORD_BYTES + 1), None, 400),
        ("POST", b"\xff\xfe", None, 400),
        ("POST", b"x", "first", 409),
        ("POST", b"x" * (MAX_PASSWORD_BYTES + 1), "first", 409),
        ("POST", None, "first", 409),
    ],
)
def test_invalid_requests_are_rejected_with_their_status(
    make_context, method: str, body: bytes | None, stored: str | None, status: int
) -> None:
    with pytest.raises(MetadataError) as refused:
        handle_password(make_context(password=stored).instance, method, body)
    assert refused.value.status == status


def test_responses_after_a_stored_and_a_rejected_password() -> None:
    assert (password_stored().status, password_stored().body) == (200, b"")
    assert password_refused().status == 409


def test_password_is_not_in_the_repr() -> None:
    assert "secret" not in repr(StorePassword("secret"))
