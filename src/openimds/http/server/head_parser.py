"""A request's head: from bytes to a value, or a refusal that says why.

The request line is judged here, strictly and without a list of known methods; the header block is llhttp's, in its
strict mode: bare LF, folded lines, NUL and control characters, spaces before the colon, a second Content-Length, a
Content-Length beside Transfer-Encoding are its errors. What llhttp leaves open (a missing or second Host, a
Transfer-Encoding other than chunked, limits) is decided here. Blanks at the end of a value are kept for the handler:
a signed `abc ` is not `abc`, as with nova.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import httptools

from openimds.http.messages import RawHeaders
from openimds.http.server.limits import HttpError, Limits, keeps_alive

HEAD_END = b"\r\n\r\n"

_REQUEST_LINE = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}) ([\x20-\x7e\x80-\xff]*) HTTP/([0-9])\.([0-9])", re.DOTALL
)
"""A target may have blanks in it, as the front ends have it that nova is deployed behind: such a path is a 404, not a
400. The version is what follows the last blank, so nothing can be read in two ways."""
_ABSOLUTE = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)
_PROBE_LINE = b"POST / HTTP/1.1\r\n"
"""Stands for the request line when llhttp reads the headers: its own reading of lines is laxer than ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    method: str
    target: bytes
    headers: RawHeaders
    keep_alive: bool
    content_length: int
    """0 without a body; meaningless when chunked."""
    chunked: bool
    expects_continue: bool


def parse_head(raw: bytes, limits: Limits) -> Head:
    """`raw` is everything up to and with the empty line. Raises Refusal (400, 414, 417, 431, 501, 505)."""
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
        keep_alive=keeps_alive(version=version, connection=framing.connection, method=method),
        content_length=framing.content_length,
        chunked=framing.chunked,
        expects_continue=framing.expects_continue and version == b"1.1",
    )


MAX_SAME_BYTES = 1024
_same = lru_cache(maxsize=1024)(parse_head)


def parse_guests_head(raw: bytes, limits: Limits) -> Head:
    """As `parse_head`, for guests' own requests: those of one image send the same bytes when they boot."""
    return _same(raw, limits) if len(raw) <= MAX_SAME_BYTES else parse_head(raw, limits)


def check_unfinished(raw: bytes | bytearray, checked: int, limits: Limits) -> None:
    """Refuse a head as soon as what is there of it cannot become a good one. Raises Refusal (400, 414, 431).

    `checked`: so many bytes of it were looked at before.
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
    """`http://host/path` → `/path`; other forms as they are when they can mean something here."""
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
        pass  # an Upgrade that we do not take up: the request is answered as if it were not there
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
