"""Parses the bytes of a connection into requests.

The request line is parsed here, strictly and without a list of methods. llhttp parses the header block in its strict
mode. Its errors are: bare LF, folded lines, NUL and control characters, spaces before the colon, a second
Content-Length, and Content-Length beside Transfer-Encoding. A missing or second Host, a Transfer-Encoding other than
chunked, and the limits are checked here. Trailing blanks of a value are kept: a signed `abc ` differs from `abc`, as
with Nova.

Chunked bodies are parsed strictly: CRLF and hexadecimal digits only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Protocol

import httptools

from openimds.http.messages import RawHeaders, Request
from openimds.http.server.limits import HttpError, Limits

HEAD_END = b"\r\n\r\n"

_REQUEST_LINE = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}) ([\x20-\x7e\x80-\xff]*) HTTP/([0-9])\.([0-9])", re.DOTALL
)
"""A target may contain spaces, as with the front ends of nova: such a path is a 404, not a 400. The version follows the
last space, so a line has only one reading."""
_ABSOLUTE = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)
_PROBE_LINE = b"POST / HTTP/1.1\r\n"
"""llhttp parses the headers after this line instead of the request line, which it would check less strictly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    method: str
    target: bytes
    headers: RawHeaders
    keep_alive: bool
    content_length: int
    """0 without a body. Undefined for a chunked body."""
    chunked: bool
    expects_continue: bool


def parse_head(raw: bytes, limits: Limits) -> Head:
    """Parses a head including its empty line. Raises HttpError (400, 414, 417, 431, 501, 505)."""
    line, _, block = raw.partition(b"\r\n")
    method, target, version = _request_line(line, limits)
    if len(block) > limits.header_bytes:
        raise HttpError(431, f"The header is larger than {limits.header_bytes} bytes.")
    headers = _headers(block or b"\r\n", limits)
    framing = _framing(headers, version)
    return Head(
        method=method.decode(),
        target=_origin_form(method, target),
        headers=headers,
        keep_alive=_keeps_alive(version=version, connection=framing.connection, method=method),
        content_length=framing.content_length,
        chunked=framing.chunked,
        expects_continue=framing.expects_continue and version == b"1.1",
    )


MAX_CACHED_BYTES = 1024
_parse_cached = lru_cache(maxsize=1024)(parse_head)


def parse_client_head(raw: bytes, limits: Limits) -> Head:
    """Parses a head of a client's own connection. Instances of one image send equal heads, so results are cached."""
    return _parse_cached(raw, limits) if len(raw) <= MAX_CACHED_BYTES else parse_head(raw, limits)


def check_unfinished(raw: bytes | bytearray, checked: int, limits: Limits) -> None:
    """Rejects an incomplete head that cannot become valid. Raises HttpError (400, 414, 431).

    `checked`: the number of bytes that earlier calls have checked.
    """
    if raw.count(b"\n", checked) != raw.count(b"\r\n", max(0, checked - 1)):
        raise HttpError(400, "A line ends in a bare line feed.")
    if len(raw) <= limits.request_line_bytes:
        return
    line_end = raw.find(b"\r\n", 0, limits.request_line_bytes + 2)
    if line_end < 0:
        raise HttpError(414, f"The request line is longer than {limits.request_line_bytes} bytes.")
    if len(raw) - line_end - 2 > limits.header_bytes:
        raise HttpError(431, f"The header is larger than {limits.header_bytes} bytes.")


def _request_line(line: bytes, limits: Limits) -> tuple[bytes, bytes, bytes]:
    if len(line) > limits.request_line_bytes:
        raise HttpError(414, f"The request line is longer than {limits.request_line_bytes} bytes.")
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise HttpError(400, "The request line is not METHOD TARGET HTTP/1.1.")
    method, target, major, minor = match.groups()
    if major != b"1" or minor not in b"01":
        raise HttpError(505, "Only HTTP/1.1 and HTTP/1.0 are spoken here.")
    return method, target, major + b"." + minor


def _origin_form(method: bytes, target: bytes) -> bytes:
    """Returns the path of an absolute URL (`http://host/path`), and other valid forms unchanged."""
    if target.startswith(b"/") or method == b"CONNECT" or target in (b"", b"*"):
        return target
    match = _ABSOLUTE.match(target)
    if match is None:
        raise HttpError(400, "The request target does not start with a slash.")
    rest = target[match.end() :]
    return rest if rest.startswith(b"/") else b"/" + rest


class _HeaderCollector:
    def __init__(self) -> None:
        self.pairs: list[tuple[bytes, bytes]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.pairs.append((name, value))


def _headers(block: bytes, limits: Limits) -> RawHeaders:
    collector = _HeaderCollector()
    try:
        httptools.HttpRequestParser(collector).feed_data(_PROBE_LINE + block)
    except httptools.HttpParserUpgrade:
        pass  # a server may ignore Upgrade (RFC 9110 section 7.8)
    except httptools.HttpParserError as error:
        raise HttpError(400, f"The header cannot be read: {error}.") from None
    if len(collector.pairs) > limits.header_count:
        raise HttpError(431, f"There are more than {limits.header_count} header fields.")
    return tuple(collector.pairs)


@dataclass(slots=True)
class _Framing:
    connection: bytes = b""
    content_length: int = 0
    chunked: bool = False
    expects_continue: bool = False
    hosts: int = 0


def _framing(headers: RawHeaders, version: bytes) -> _Framing:
    framing = _Framing()
    for name, value in headers:
        read = _READERS.get(name.lower())
        if read is not None:
            read(framing, value.rstrip(b" \t"))
    if framing.hosts > 1:
        raise HttpError(400, "Multiple Host headers found within request.")
    if framing.chunked and version == b"1.0":
        raise HttpError(400, "Transfer-Encoding is not part of HTTP/1.0.")
    return framing


def _read_length(framing: _Framing, value: bytes) -> None:
    if not value.isdigit() or len(value) > 15:
        raise HttpError(400, "Content-Length is not a number.")
    framing.content_length = int(value)


def _read_transfer_encoding(framing: _Framing, value: bytes) -> None:
    if framing.chunked:
        raise HttpError(400, "Multiple Transfer-Encoding headers found within request.")
    if value.lower() != b"chunked":
        raise HttpError(501, "Transfer-Encoding other than chunked is not understood.")
    framing.chunked = True


def _read_expect(framing: _Framing, value: bytes) -> None:
    if value.lower() != b"100-continue":
        raise HttpError(417, "Expect other than 100-continue cannot be met.")
    framing.expects_continue = True


def _read_connection(framing: _Framing, value: bytes) -> None:
    framing.connection = framing.connection + b"," + value


def _read_host(framing: _Framing, _value: bytes) -> None:
    framing.hosts += 1


_READERS = {
    b"content-length": _read_length,
    b"transfer-encoding": _read_transfer_encoding,
    b"expect": _read_expect,
    b"connection": _read_connection,
    b"host": _read_host,
}


def _keeps_alive(*, version: bytes, connection: bytes, method: bytes) -> bool:
    """Returns whether another request may follow on the connection (RFC 9112 section 9.3).

    Returns False for CONNECT and TRACE, which no legitimate client sends to a metadata service.
    """
    options = {token.strip().lower() for token in connection.split(b",")}
    if b"close" in options or method in (b"CONNECT", b"TRACE"):
        return False
    return version == b"1.1" or b"keep-alive" in options


_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(;[\t\x20-\x7e\x80-\xff]*)?")
_TRAILER_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*")


class BodyReader(Protocol):
    def take(self, buffer: bytearray) -> bytes | None:
        """Removes bytes of the body from the buffer. Returns the body when it is complete, else None. Raises HttpError."""


def body_reader(head: Head, limits: Limits) -> BodyReader | None:
    """Returns the reader of the body. None without a body. Raises HttpError (413) before the body is read."""
    if head.chunked:
        return ChunkedBody(limits)
    if head.content_length == 0:
        return None
    if head.content_length > limits.body_bytes:
        raise _too_large(limits)
    return LengthBody(head.content_length)


class LengthBody:
    """A body with Content-Length."""

    def __init__(self, length: int) -> None:
        self._length = length

    def take(self, buffer: bytearray) -> bytes | None:
        if len(buffer) < self._length:
            return None
        body = bytes(buffer[: self._length])
        del buffer[: self._length]
        return body


class ChunkedBody:
    """A chunked body (RFC 9112 section 7.1). Extensions and trailers are dropped and count against a limit."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._body = bytearray()
        self._overhead = 0
        self._chunk_left: int | None = None
        self._in_trailer = False

    def take(self, buffer: bytearray) -> bytes | None:
        while True:
            if self._chunk_left is not None:
                if not self._take_chunk(buffer, self._chunk_left):
                    return None
                continue
            line = self._take_line(buffer)
            if line is None:
                return None
            if self._in_trailer:
                if line == b"":
                    return bytes(self._body)
                _check_trailer(line)
            else:
                self._start_chunk(line)

    def _take_line(self, buffer: bytearray) -> bytes | None:
        end = buffer.find(b"\r\n")
        self._check_overhead(len(buffer) if end < 0 else end + 2)
        if end < 0:
            return None
        line = bytes(buffer[:end])
        del buffer[: end + 2]
        self._overhead += end + 2
        return line

    def _check_overhead(self, more: int) -> None:
        if self._overhead + more > self._limits.chunk_overhead_bytes:
            raise HttpError(400, f"The chunks' framing is larger than {self._limits.chunk_overhead_bytes} bytes.")

    def _start_chunk(self, line: bytes) -> None:
        match = _CHUNK_LINE.fullmatch(line)
        if match is None:
            raise HttpError(400, "A chunk's size cannot be read.")
        size = int(match[1], 16)
        if len(self._body) + size > self._limits.body_bytes:
            raise _too_large(self._limits)
        if size:
            self._chunk_left = size
        else:
            self._in_trailer = True

    def _take_chunk(self, buffer: bytearray, size: int) -> bool:
        if len(buffer) < size + 2:
            return False
        if buffer[size : size + 2] != b"\r\n":
            raise HttpError(400, "A chunk is not as long as its size says.")
        self._body += buffer[:size]
        del buffer[: size + 2]
        self._chunk_left = None
        return True


def _check_trailer(line: bytes) -> None:
    if _TRAILER_LINE.fullmatch(line) is None:
        raise HttpError(400, "A trailer field cannot be read.")


def _too_large(limits: Limits) -> HttpError:
    return HttpError(413, f"The body is larger than {limits.body_bytes} bytes.")


class ParserState(Enum):
    IDLE = "before a request"
    HEAD = "in a head"
    BODY = "in a body"


@dataclass(slots=True)  # a frozen dataclass takes three times as long to make
class ParsedRequest:
    """A complete request."""

    request: Request
    keep_alive: bool
    """Whether another request may follow on the connection."""
    head: bytes = b""
    """The bytes of a GET without a body. Empty for other requests."""


class RequestParser:
    """Parses the bytes of one connection into requests. Has no socket and no clock.

    parser.receive(data)
    while parsed := parser.next():   # raises HttpError: respond and close
        …respond to parsed.request; close unless parsed.keep_alive…

    The bytes of pipelined requests stay in the buffer until `next` is called again.
    """

    def __init__(
        self, limits: Limits, *, peer: str = "", peer_port: int = 0, listener: str = "", mac: str = ""
    ) -> None:
        self._limits = limits
        self._peer = peer
        self._peer_port = peer_port
        self._listener = listener
        self._mac = mac
        self._parse_head = parse_client_head if mac else parse_head
        self._buffer = bytearray()
        self._checked = 0
        self._skipped_empty_line = False
        self._head: Head | None = None
        self._reader: BodyReader | None = None
        self.owes_continue = False
        self._raw = b""

    @property
    def buffered(self) -> int:
        """The number of received bytes that are not part of a returned request."""
        return len(self._buffer)

    @property
    def stage(self) -> ParserState:
        if self._head is not None:
            return ParserState.BODY
        return ParserState.HEAD if self._buffer else ParserState.IDLE

    def receive(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> ParsedRequest | None:
        """Returns the next complete request. None if more bytes are needed. Raises HttpError."""
        if self._head is None and not self._start():
            return None
        head, reader = self._head, self._reader
        body = reader.take(self._buffer) if reader else b""
        if head is None or body is None:
            return None
        self._head = self._reader = None
        self.owes_continue = False
        raw = self._raw if reader is None and head.method == "GET" else b""
        return ParsedRequest(self._request(head, body), head.keep_alive, raw)

    def take_continue(self) -> bool:
        """Returns whether the client waits for `100 Continue`. True at most once per request."""
        owed, self.owes_continue = self.owes_continue, False
        return owed

    def _start(self) -> bool:
        raw = self._take_head()
        if raw is None:
            return False
        head = self._parse_head(raw, self._limits)
        self._raw = raw
        self._reader = body_reader(head, self._limits)
        self.owes_continue = head.expects_continue and self._reader is not None and not self._buffer
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
        """Skips one empty line before a request (RFC 9112 section 2.2). Raises HttpError for a second one.

        Returns False if more bytes are needed.
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
