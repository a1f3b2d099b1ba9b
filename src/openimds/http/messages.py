"""A request and its answer, as values."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol

RawHeaders = tuple[tuple[bytes, bytes], ...]
"""As received: (name, value), in order, names in the sender's letter case."""

TEXT = b"text/plain; charset=UTF-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request, complete."""

    method: str
    """As sent, letter case included: `GET`, `get`, `FOO`."""
    target: bytes
    """Raw, not percent-decoded: `/latest/meta-data/?x=1`, or `*`. A scheme and authority in front are cut off."""
    headers: RawHeaders
    body: bytes = b""
    peer: str = ""
    """The TCP peer's address without port; empty on a unix socket."""
    peer_port: int = 0
    """The TCP peer's port; 0 on a unix socket."""
    listener: str = ""
    """The tag of the listener that the connection arrived on."""
    mac: str = ""
    """The MAC that opened the connection, where the listener tells (`Listener.source_mac`) and it is known."""

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header; `name` in lower case."""
        for key, value in self.headers:
            if key.lower() == name:
                return value
        return None


class Answer(Protocol):
    """What a handler gives back. The server adds Date, Content-Length and Connection.

    Two attributes are looked for and need not be there: `again` (repeats.py), and `hop_limit`: so many hops may this
    answer's packets go, 1 to 255.
    """

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]: ...
    @property
    def body(self) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """The ready-made Answer."""

    status: int
    headers: Sequence[tuple[bytes, bytes]] = ()
    body: bytes = b""


Handler = Callable[[Request], Answer | Awaitable[Answer]]
"""A handler answers at once (a plain function: the fast path) or later (a coroutine function)."""


def text_response(status: int, text: str, *headers: tuple[bytes, bytes]) -> Response:
    """An answer that says one sentence as text/plain."""
    return Response(status=status, headers=((b"Content-Type", TEXT), *headers), body=text.encode())


def reason_phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
