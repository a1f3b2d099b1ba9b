"""The values of a request and a response."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

RawHeaders = tuple[tuple[bytes, bytes], ...]
"""Pairs of name and value in the received order. Names have the sender's letter case."""

TEXT = b"text/plain; charset=UTF-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One complete request."""

    method: str
    """The method with the sender's letter case: `GET`, `get`, `FOO`."""
    target: bytes
    """The target without percent-decoding: `/latest/meta-data/?x=1`, or `*`. A scheme and authority are removed."""
    headers: RawHeaders
    body: bytes = b""
    peer: str = ""
    """The TCP peer's address without port. Empty on a unix socket."""
    peer_port: int = 0
    """The TCP peer's port. 0 on a unix socket."""
    listener: str = ""
    """The tag of the listener that the connection arrived on."""
    mac: str = ""
    """The MAC that opened the connection, on a listener with `source_mac`. Empty if it is unknown."""

    def header(self, name: bytes) -> bytes | None:
        """Returns the first value of a header. `name` is in lower case."""
        for key, value in self.headers:
            if key.lower() == name:
                return value
        return None


Replay = Callable[[bytes], tuple[bytes, bytes, bytes, bytes] | None]
"""Repeats a response for a request that differs from the first one in the request id alone. Takes the request's id, or
nothing, and returns the id of the response and the body in three pieces. Returns None if the request must be handled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One response. The server adds Date, Content-Length and Connection. It sends no body in response to HEAD."""

    status: int
    headers: Sequence[tuple[bytes, bytes]] = ()
    body: bytes = field(default=b"", repr=False)
    replay: Replay | None = field(default=None, repr=False)
    hop_limit: int | None = None
    """IP TTL (IPv6: hop limit) of the packets of this response, 1 to 255. None for the socket's own."""


Handler = Callable[[Request], Response | Awaitable[Response]]
"""A plain function returns the response (the fast path), a coroutine function returns it later."""


def text_response(status: int, text: str, *headers: tuple[bytes, bytes]) -> Response:
    """A response of one sentence as text/plain."""
    return Response(status=status, headers=((b"Content-Type", TEXT), *headers), body=text.encode())


def reason_phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
