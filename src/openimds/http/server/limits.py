"""Limits, and the one class of error that refuses a message."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one message may be. Sizes in bytes."""

    request_line_bytes: int = 8 * 1024
    header_bytes: int = 32 * 1024
    """All header lines together."""
    header_count: int = 64
    body_bytes: int = 64 * 1024
    chunk_overhead_bytes: int = 16 * 1024
    """Chunk-size lines, extensions and trailers of one chunked body together."""

    @property
    def head_bytes(self) -> int:
        return self.request_line_bytes + self.header_bytes + 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """In seconds; each is measured from its beginning, so a byte now and then does not prolong it."""

    head: float = 15.0
    """From a request's first byte to the end of its head."""
    body: float = 30.0
    idle: float = 75.0
    """Between requests. Longer than a proxy keeps its idle connections, or the proxy would meet our closing."""
    answer: float = 120.0
    """For the handler."""
    write: float = 30.0
    """For the peer to take an answer off our hands."""
    linger: float = 2.0
    """After a refusal: how long what the peer still sends is read, so that it can read our sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """How many connections at once."""

    total: int = 20_000
    per_peer: int = 256
    """For one guest at one listener: its MAC where the listener tells it, whatever addresses it uses (unless the
    listener tells guests apart in another way); else its TCP address. Two networks' guests may have the same. Unix
    sockets have no peers to tell apart."""
    per_network: int = 4000
    """For all guests of one network or router, where the listener tells their MACs: who owns a network may switch port
    security off, and send from as many MACs as he likes."""


class HttpError(Exception):
    """The message is not acceptable; the connection ends after this answer, as nothing behind it can be trusted."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence


def keeps_alive(*, version: bytes, connection: bytes, method: bytes) -> bool:
    """May another request follow on this connection (RFC 9112 section 9.3)?

    Not after CONNECT or TRACE: whoever sends these to a metadata service tries something.
    """
    options = {token.strip().lower() for token in connection.split(b",")}
    if b"close" in options or method in (b"CONNECT", b"TRACE"):
        return False
    return version == b"1.1" or b"keep-alive" in options
