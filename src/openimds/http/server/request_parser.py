"""One connection's bytes, turned into requests in the order they came. No sockets, no clock.

    conversation.receive(data)
    while incoming := conversation.next():   # raises Refusal: answer it and close
        …answer incoming.request; close unless incoming.keep_alive…

Between two requests the rest of the bytes waits, so pipelined requests are answered one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from openimds.http.messages import Request
from openimds.http.server.body_parser import BodyReader, body_reader
from openimds.http.server.head_parser import HEAD_END, Head, check_unfinished, parse_guests_head, parse_head
from openimds.http.server.limits import HttpError, Limits


class ParserState(Enum):
    """What the connection waits for."""

    IDLE = "a request"
    HEAD = "the rest of a request's head"
    BODY = "the rest of a request's body"


@dataclass(slots=True)  # frozen ones take three times as long to make
class ParsedRequest:
    """A complete request, and whether another one may follow it."""

    request: Request
    keep_alive: bool
    head: bytes = b""
    """Its very bytes, when it is a GET without a body."""


class RequestParser:
    """The receiving half of one connection."""

    def __init__(
        self, limits: Limits, *, peer: str = "", peer_port: int = 0, listener: str = "", mac: str = ""
    ) -> None:
        self._limits = limits
        self._peer = peer
        self._peer_port = peer_port
        self._listener = listener
        self._mac = mac
        self._parse_head = parse_guests_head if mac else parse_head
        self._buffer = bytearray()
        self._checked = 0
        self._skipped_empty_line = False
        self._head: Head | None = None
        self._reader: BodyReader | None = None
        self._owes_continue = False
        self._raw = b""

    @property
    def buffered(self) -> int:
        """Bytes received and not yet part of a request."""
        return len(self._buffer)

    @property
    def stage(self) -> ParserState:
        if self._head is not None:
            return ParserState.BODY
        return ParserState.HEAD if self._buffer else ParserState.IDLE

    def receive(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> ParsedRequest | None:
        """The next complete request, or None until more is received. Raises Refusal."""
        if self._head is None and not self._start():
            return None
        head, reader = self._head, self._reader
        body = reader.take(self._buffer) if reader else b""
        if head is None or body is None:
            return None
        self._head = self._reader = None
        self._owes_continue = False
        raw = self._raw if reader is None and head.method == "GET" else b""
        return ParsedRequest(self._request(head, body), head.keep_alive, raw)

    def take_continue(self) -> bool:
        """Does the sender wait for `100 Continue` before it sends the body? True once a request."""
        owed, self._owes_continue = self._owes_continue, False
        return owed

    def _start(self) -> bool:
        raw = self._take_head()
        if raw is None:
            return False
        head = self._parse_head(raw, self._limits)
        self._raw = raw
        self._reader = body_reader(head, self._limits)
        self._owes_continue = head.expects_continue and self._reader is not None and not self._buffer
        self._head = head
        return True

    def _take_head(self) -> bytes | None:
        buffer = self._buffer
        if not buffer:
            return None
        if buffer.startswith(b"\r") and not self._skip_empty_line():
            return None
        end = buffer.find(HEAD_END, max(0, self._checked - len(HEAD_END) + 1))
        if end < 0:
            check_unfinished(buffer, self._checked, self._limits)
            self._checked = len(buffer)
            return None
        end += len(HEAD_END)
        raw = bytes(buffer[:end])
        del buffer[:end]
        self._checked = 0
        self._skipped_empty_line = False
        return raw

    def _skip_empty_line(self) -> bool:
        """One empty line before a request is forgiven (RFC 9112 section 2.2), and no second, however they arrive.

        False: more must come before it can be told. Raises Refusal.
        """
        buffer = self._buffer
        while buffer.startswith(b"\r\n"):
            if self._skipped_empty_line:
                raise HttpError(400, "There is more than one empty line before the request.")
            self._skipped_empty_line = True
            del buffer[:2]
        return bool(buffer) and buffer != b"\r"

    def _request(self, head: Head, body: bytes) -> Request:
        return Request(
            method=head.method,
            target=head.target,
            headers=head.headers,
            body=body,
            peer=self._peer,
            peer_port=self._peer_port,
            listener=self._listener,
            mac=self._mac,
        )
