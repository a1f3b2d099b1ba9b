"""A request and its answer, as the service sees them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol


class GuestRequest(Protocol):
    """What an HTTP server hands over, complete."""

    @property
    def method(self) -> str: ...
    @property
    def target(self) -> bytes:
        """As sent, not percent-decoded."""

    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]:
        """As received, in order, repeated ones repeated."""

    @property
    def body(self) -> bytes: ...
    @property
    def peer(self) -> str:
        """The TCP peer's address without port; empty on a unix socket."""

    @property
    def peer_port(self) -> int:
        """The TCP peer's port; 0 on a unix socket."""

    @property
    def listener(self) -> str:
        """The tag of the listener that the connection came by."""

    @property
    def mac(self) -> str:
        """The MAC that opened the connection; empty where it is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestResponse:
    """The server adds Date, Content-Length and Connection, and leaves the body out for HEAD."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = field(default=b"", repr=False)
    again: Callable[[bytes], tuple[bytes, bytes, bytes, bytes] | None] | None = field(default=None, repr=False)
    """How a request that differs in nothing but its request id is answered: with these headers but its own request id,
    and the body that this gives in three pieces. (id as given, or empty) → (id, body …), or None: ask properly."""
    hop_limit: int | None = None
    """So many hops may the packets go that carry this answer; None: as many as any other's."""
