"""The limits of the HTTP server, and the error for requests that exceed them or are malformed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The maximum size of a request."""

    request_line_bytes: int = 8 * 1024
    header_bytes: int = 32 * 1024
    """The size of all header lines."""
    header_count: int = 64
    body_bytes: int = 64 * 1024
    chunk_overhead_bytes: int = 16 * 1024
    """The size of all chunk-size lines, extensions and trailers of a chunked body."""

    @property
    def head_bytes(self) -> int:
        return self.request_line_bytes + self.header_bytes + 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """In seconds. A timeout starts with its phase, so that a client cannot extend it by sending single bytes."""

    head: float = 15.0
    """The time from the first byte of a request to the end of its head."""
    body: float = 30.0
    idle: float = 75.0
    """The time between requests. Longer than a proxy keeps idle connections, so that the proxy closes them first."""
    answer: float = 120.0
    """The time in which the handler must return a response."""
    write: float = 30.0
    """The time in which the peer must read a response."""
    linger: float = 2.0
    """The time in which further bytes are read after a rejection, so that the peer can read the response."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """The maximum number of concurrent connections."""

    total: int = 20_000
    per_peer: int = 256
    """Per client and listener. A client is its MAC if the listener knows MACs (or the key of `Listener.guest_of`), else
    its TCP address. Connections on a unix socket are not counted."""
    per_network: int = 4000
    """Per network or router, if the listener knows MACs. The owner of a network can disable port security and send from
    any number of MACs."""


class HttpError(Exception):
    """A request that is rejected. The connection ends after the response, because its next bytes cannot be trusted."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
