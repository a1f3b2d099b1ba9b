"""A request's body: how much of what arrived belongs to it.

A reader takes bytes and says when it is complete; what it did not take belongs to the next request. Chunked framing
(RFC 9112 section 7.1) is read strictly: CRLF only, hexadecimal digits only, extensions and trailers are dropped and
count against a limit.
"""

from __future__ import annotations

import re
from typing import Protocol

from openimds.http.server.head_parser import Head
from openimds.http.server.limits import HttpError, Limits

_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(;[\t\x20-\x7e\x80-\xff]*)?")
_TRAILER_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*")


class BodyReader(Protocol):
    def take(self, buffer: bytearray) -> bytes | None:
        """Remove what belongs to the body; the whole body once it is complete, None until then. Raises Refusal."""


def body_reader(head: Head, limits: Limits) -> BodyReader | None:
    """The reader for this head, None without a body. Raises Refusal (413) before anything is read."""
    if head.chunked:
        return ChunkedBody(limits)
    if head.content_length == 0:
        return None
    if head.content_length > limits.body_bytes:
        raise _too_large(limits)
    return LengthBody(head.content_length)


class LengthBody:
    """As many bytes as Content-Length said."""

    def __init__(self, length: int) -> None:
        self._length = length

    def take(self, buffer: bytearray) -> bytes | None:
        if len(buffer) < self._length:
            return None
        body = bytes(buffer[: self._length])
        del buffer[: self._length]
        return body


class ChunkedBody:
    """Chunks until the one of size 0 and the trailers behind it."""

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
