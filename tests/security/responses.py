"""Parses all responses with h11, which is strict, and checks our guarantees beyond HTTP."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import h11

_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+: ?[\x20-\x7e\x80-\xff]*")


@dataclass(frozen=True)
class Answer:
    status: int
    headers: tuple[tuple[str, str], ...]
    """Header names are in lower case."""
    body: bytes

    def header(self, name: str) -> str | None:
        found = [value for key, value in self.headers if key == name]
        assert len(found) <= 1, f"{name} occurs {len(found)} times"
        return found[0] if found else None

    @property
    def closes(self) -> bool:
        return self.header("connection") == "close"


def answers(raw: bytes, methods: Sequence[str]) -> list[Answer]:
    """All responses that a server sent on one connection.

    `methods` are those of the requests in order. Further responses count as responses to GET. Raises AssertionError or
    h11.RemoteProtocolError for an invalid response.
    """
    found: list[Answer] = []
    while raw:
        method = methods[len(found)] if len(found) < len(methods) else "GET"
        answer, raw = _first(raw, method)
        found.append(answer)
    for answer in found[:-1]:
        assert not answer.closes, "bytes follow a response with Connection: close"
    return found


def _first(raw: bytes, method: str) -> tuple[Answer, bytes]:
    peer = h11.Connection(h11.CLIENT)
    method = method if re.fullmatch(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", method) and method != "CONNECT" else "GET"
    peer.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    peer.send(h11.EndOfMessage())
    peer.receive_data(raw)
    status, body = 0, b""
    headers: tuple[tuple[str, str], ...] = ()
    while not isinstance(event := peer.next_event(), h11.EndOfMessage):
        assert event is not h11.NEED_DATA, f"the response is incomplete: {raw[:300]!r}"
        match event:
            case h11.Response():
                status = event.status_code
                headers = tuple((name.decode(), value.decode("latin-1")) for name, value in event.headers)
            case h11.Data():
                body += bytes(event.data)
    _check_head(raw, status)
    answer = Answer(status, headers, body)
    _check_guarantees(answer, method)
    rest, _closed = peer.trailing_data
    return answer, rest


def _check_head(raw: bytes, status: int) -> None:
    raw = raw.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    head, separator, _ = raw.partition(b"\r\n\r\n")
    assert separator
    line, *fields = head.split(b"\r\n")
    assert re.fullmatch(rb"HTTP/1\.[01] %d [ -~]+" % status, line), line
    assert all(_LINE.fullmatch(field) for field in fields), head


def _check_guarantees(answer: Answer, method: str) -> None:
    assert answer.header("transfer-encoding") is None, "responses have a Content-Length"
    if answer.status in (204, 304):
        assert not answer.body
        return
    length = answer.header("content-length")
    assert length is not None, answer
    if method != "HEAD":
        assert int(length) == len(answer.body)
    if answer.status == 405:
        assert answer.header("allow"), "405 without Allow"
    if answer.status in (429, 503):
        assert answer.header("retry-after"), f"{answer.status} without Retry-After"
    if answer.body:
        assert answer.header("content-type"), answer
