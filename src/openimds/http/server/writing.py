"""Writing one connection's answers: as bytes, and each as many hops far as it may go."""

from __future__ import annotations

import asyncio
import time

import structlog

from openimds.http.messages import Answer
from openimds.http.server.response import FAILED, render
from openimds.http.server.socket_ttl import Hops

_log = structlog.get_logger(__name__)


class AnswerWriter:
    """Of one connection, as long as it lasts."""

    __slots__ = ("_listener", "_transport", "hops")

    def __init__(self, transport: asyncio.Transport, listener: str) -> None:
        self._transport = transport
        self._listener = listener
        self.hops: Hops | None = None
        """While what was written last may go fewer hops than usual."""

    def write(self, answer: Answer, method: str, *, keep_alive: bool) -> None:
        """One that cannot be written becomes a 500."""
        try:
            data = render(answer, method=method, keep_alive=keep_alive, now=time.time())
        except ValueError:
            _log.exception("an answer could not be written", listener=self._listener)
            data = render(FAILED, method=method, keep_alive=keep_alive, now=time.time())
        self.send(data, answer)

    def send(self, data: bytes, answer: Answer) -> None:
        """`data`: the answer's bytes."""
        self._set_hops(getattr(answer, "hop_limit", None))
        self._transport.write(data)

    def must_settle(self, answer: Answer) -> bool:
        """Would this answer, or what is still on its way, go another number of hops than it should?"""
        hops = self.hops
        if hops is None:
            if getattr(answer, "hop_limit", None) is None:
                return False
            hops = Hops(self._transport)
        return not hops.settled

    async def settle(self) -> None:
        """Wait until what was written is acknowledged; not for long (hops.py)."""
        await (self.hops or Hops(self._transport)).settle()

    def _set_hops(self, hop_limit: int | None) -> None:
        if self.hops is not None and self.hops.settled:
            self.hops.restore()
            self.hops = None
        if hop_limit is not None:
            self.hops = self.hops or Hops(self._transport)
            self.hops.lower(hop_limit)
