"""The rendering of responses as bytes."""

from __future__ import annotations

import pytest

from openimds.http.messages import Response, text_response
from openimds.http.server.response import render

NOW = 1795302540.0  # 2026-11-21 23:09:00 UTC


def rendered(response: Response, method: str = "GET", *, keep_alive: bool = True) -> str:
    return render(response, method=method, keep_alive=keep_alive, now=NOW).decode()


def test_response_has_date_length_and_connection():
    assert rendered(Response(status=200, headers=((b"Content-Type", b"text/plain"),), body=b"hello")) == (
        "HTTP/1.1 200 OK\r\nDate: Sat, 21 Nov 2026 23:09:00 GMT\r\nContent-Type: text/plain\r\n"
        "Content-Length: 5\r\nConnection: keep-alive\r\n\r\nhello"
    )


def test_response_to_head_has_the_length_and_no_body():
    text = rendered(Response(status=200, body=b"hello"), "HEAD")
    assert "Content-Length: 5\r\n" in text
    assert text.endswith("\r\n\r\n")


def test_response_to_head_has_the_length_of_the_handler():
    text = rendered(Response(status=200, headers=((b"content-length", b"77"),)), "HEAD")
    assert "Content-Length: 77\r\n" in text
    assert text.lower().count("content-length") == 1


def test_framing_headers_of_a_handler_are_dropped():
    forged = ((b"Content-Length", b"1"), (b"Transfer-Encoding", b"chunked"), (b"Connection", b"x"), (b"Date", b"x"))
    text = rendered(Response(status=200, headers=forged, body=b"hello"), keep_alive=False)
    assert text.count("Content-Length: 5") == 1
    assert "chunked" not in text
    assert "Connection: close\r\n\r\nhello" in text


@pytest.mark.parametrize("status", [204, 304])
def test_status_without_a_body_has_no_length_and_no_body(status):
    text = rendered(Response(status=status, body=b"x"))
    assert "Content-Length" not in text
    assert text.endswith("\r\n\r\n")


def test_unknown_status_has_a_reason_phrase():
    assert rendered(Response(status=299)).startswith("HTTP/1.1 299 Unknown\r\n")


@pytest.mark.parametrize("header", [(b"X", b"a\r\nSet-Cookie: b"), (b"X\n", b"a"), (b"X", b"a\n")])
def test_line_break_in_a_header_is_rejected(header):
    with pytest.raises(ValueError, match="line break"):
        rendered(Response(status=200, headers=(header,)))


def test_text_response_has_a_content_type_and_the_given_headers():
    response = text_response(503, "Again.", (b"Retry-After", b"1"))
    assert dict(response.headers) == {b"Content-Type": b"text/plain; charset=UTF-8", b"Retry-After": b"1"}
    assert response.body == b"Again."
