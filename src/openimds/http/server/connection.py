"""Calling the handler: whatever it does, its guest gets an answer.

What a connection waits for: each phase has its own time-out (rules.Timeouts has a field of each one's name).

Writing one connection's answers: as bytes, and each as many hops far as it may go.

One connection: the I/O around a Conversation.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from enum import Enum
from typing import Any, Protocol, cast

import structlog

from openimds.http.messages import Handler, Request, Response, text_response
from openimds.http.server.limits import HttpError, Limits, Timeouts
from openimds.http.server.peer import GuestOf, Peer, SourceMac, peer_of
from openimds.http.server.request_parser import ParsedRequest, ParserState, RequestParser
from openimds.http.server.response import CONTINUE, FAILED, http_date, render
from openimds.http.server.response_cache import ResponseCache
from openimds.http.server.socket_ttl import SocketTtl

_log = structlog.get_logger(__name__)


def call_handler(handler: Handler, request: Request, listener: str) -> Response | Coroutine[Any, Any, Response]:
    """The handler's answer, or what will be it (`handled_later`)."""
    try:
        return cast(Response | Coroutine[Any, Any, Response], handler(request))
    except Exception:  # noqa: BLE001 - see above
        _log.exception("a request failed", listener=listener)
        return FAILED


async def await_handler(coming: Coroutine[Any, Any, Response], listener: str) -> Response:
    try:
        return await coming
    except asyncio.CancelledError:
        raise
    except Exception:  # noqa: BLE001 - see above
        _log.exception("a request failed", listener=listener)
        return FAILED


class ConnectionState(Enum):
    """What the deadline is for."""

    IDLE = "idle"
    HEAD = "head"
    BODY = "body"
    ANSWER = "answer"
    WRITE = "write"
    LINGER = "linger"


PHASE_OF_STAGE = {
    ParserState.IDLE: ConnectionState.IDLE,
    ParserState.HEAD: ConnectionState.HEAD,
    ParserState.BODY: ConnectionState.BODY,
}


class ResponseWriter:
    """Of one connection, as long as it lasts."""

    __slots__ = ("_listener", "_transport", "hops")

    def __init__(self, transport: asyncio.Transport, listener: str) -> None:
        self._transport = transport
        self._listener = listener
        self.hops: SocketTtl | None = None
        """While what was written last may go fewer hops than usual."""

    def write(self, answer: Response, method: str, *, keep_alive: bool) -> None:
        """One that cannot be written becomes a 500."""
        try:
            data = render(answer, method=method, keep_alive=keep_alive, now=time.time())
        except ValueError:
            _log.exception("an answer could not be written", listener=self._listener)
            data = render(FAILED, method=method, keep_alive=keep_alive, now=time.time())
        self.send(data, answer)

    def send(self, data: bytes, answer: Response) -> None:
        """`data`: the answer's bytes."""
        self._set_hops(answer.hop_limit)
        self._transport.write(data)

    def must_settle(self, answer: Response) -> bool:
        """Would this answer, or what is still on its way, go another number of hops than it should?"""
        hops = self.hops
        if hops is None:
            if answer.hop_limit is None:
                return False
            hops = SocketTtl(self._transport)
        return not hops.settled

    async def settle(self) -> None:
        """Wait until what was written is acknowledged; not for long (hops.py)."""
        await (self.hops or SocketTtl(self._transport)).settle()

    def _set_hops(self, hop_limit: int | None) -> None:
        if self.hops is not None and self.hops.settled:
            self.hops.restore()
            self.hops = None
        if hop_limit is not None:
            self.hops = self.hops or SocketTtl(self._transport)
            self.hops.lower(hop_limit)


_IDLE = ConnectionState.IDLE


class Owner(Protocol):
    """The server, as its connections see it."""

    handler: Handler
    timeouts: Timeouts
    draining: bool
    loop: asyncio.AbstractEventLoop
    date: bytes
    """The Date header's value, at most a moment old."""
    idle_deadline: float
    """Of a connection that becomes idle at that moment."""

    def admit(self, connection: Connection) -> Response | None:
        """None: it is counted in; else what it is told before it ends."""

    def refused(self, connection: Connection, status: int) -> None: ...
    def forget(self, connection: Connection) -> None: ...


class Connection(asyncio.Protocol):
    """Reads requests, calls the handler for one at a time, writes the answers in order."""

    def __init__(
        self,
        owner: Owner,
        limits: Limits,
        listener: str,
        repeats: ResponseCache | None = None,
        *,
        source_mac: SourceMac | None = None,
        guest_of: GuestOf | None = None,
    ) -> None:
        self._owner = owner
        self._source_mac = source_mac
        self._guest_of = guest_of
        self._asker = b""
        self._repeats = repeats or ResponseCache()
        self._limits = limits
        self.listener = listener
        self._transport: asyncio.Transport | None = None
        self._writer: ResponseWriter
        """From `connection_made` on."""
        self._conversation: RequestParser | None = None
        """Once there are bytes that did not come before."""
        self._current: ParsedRequest | None = None
        self._task: asyncio.Task[None] | None = None
        self._reading_paused = False
        self._writing_paused = False
        self._peer_finished = False
        self.peer = Peer()
        self.phase = ConnectionState.IDLE
        self.deadline = 0.0
        """In the loop's time; the server looks at it from time to time."""

    # asyncio's calls ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if transport.get_extra_info("peername") is None:
            self.phase = ConnectionState.LINGER
            self._transport.abort()  # reset by its peer before it was accepted: nobody is there to be answered
            return
        self._writer = ResponseWriter(self._transport, self.listener)
        self.peer = peer_of(transport, self._source_mac, self._guest_of)
        self._asker = self.peer.key
        self._enter(ConnectionState.IDLE)
        turned_away = self._owner.admit(self)
        if turned_away is not None:
            self._writer.write(turned_away, "GET", keep_alive=False)
            self._transport.close()
            self.phase = ConnectionState.LINGER

    def data_received(self, data: bytes) -> None:
        # Every call less counts here: what came before in the same bytes is answered in these lines.
        owner, transport = self._owner, self._transport
        if self.phase is _IDLE and transport is not None and not owner.draining and self._writer.hops is None:
            try:
                repeated = self._repeats.answer(data, owner.date, self._asker)
            except Exception:  # noqa: BLE001 - it is asked again in the careful way
                _log.exception("a request could not be answered as before", listener=self.listener)
                repeated = None
            if repeated is not None:
                answer, stays = repeated
                self.deadline = owner.idle_deadline
                transport.write(answer)
                if not stays:
                    self._finish()
                return
        if self.phase is ConnectionState.LINGER:
            return
        conversation = self._conversing()
        conversation.receive(data)
        if self._current is None and not self._writing_paused:
            self._advance()
        elif conversation.buffered > self._limits.head_bytes:
            self._pause_reading()

    def eof_received(self) -> bool:
        """The peer sends no more. What it already asked is still answered."""
        self._peer_finished = True
        return self._current is not None or self._writing_paused

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport = None
        self._owner.forget(self)
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._writing_paused = True
        self._enter(ConnectionState.WRITE)

    def resume_writing(self) -> None:
        self._writing_paused = False
        if self.phase is ConnectionState.WRITE and self._current is None:
            self._advance()

    # The server's calls -------------------------------------------------------------------------------------------

    def expire(self) -> None:
        """The deadline is over."""
        if self._transport is None:
            return
        if self.phase in (ConnectionState.HEAD, ConnectionState.BODY):
            self._refuse(HttpError(408, f"The request's {self.phase.value} took too long."))
        elif self.phase is ConnectionState.ANSWER:
            self._give_up_answer()
        elif self.phase is ConnectionState.IDLE and not self._transport.get_write_buffer_size():
            self._transport.close()
        else:
            self._transport.abort()

    def drain(self, idle_seconds: float) -> None:
        """Close soon if nothing is under way; else the answer under way says that it is the last."""
        if self._transport is None or self.phase is not ConnectionState.IDLE:
            return
        if idle_seconds > 0:
            self.deadline = min(self.deadline, self._owner.loop.time() + idle_seconds)
        else:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _conversing(self) -> RequestParser:
        if self._conversation is None:
            peer = self.peer
            self._conversation = RequestParser(
                self._limits, peer=peer.address, peer_port=peer.port, listener=self.listener, mac=peer.mac
            )
        return self._conversation

    # Requests -----------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Answer what is complete, as long as answers come at once and the peer takes them."""
        conversation = self._conversing()
        while self._transport is not None and not self._writing_paused and self.phase is not ConnectionState.LINGER:
            try:
                incoming = conversation.next()
            except HttpError as refusal:
                self._refuse(refusal)
                return
            if incoming is None:
                self._wait_for_more()
                return
            self._current = incoming
            if not self._handle(incoming):
                return

    def _handle(self, incoming: ParsedRequest) -> bool:
        """Call the handler; True when its answer is already written and the next request may follow."""
        self.phase = ConnectionState.ANSWER
        result = call_handler(self._owner.handler, incoming.request, self.listener)
        if isinstance(result, Coroutine):
            self._enter(ConnectionState.ANSWER)
            self._task = self._owner.loop.create_task(self._answer_later(result))
            return False
        return self._answer(result)

    async def _answer_later(self, coming: Coroutine[Any, Any, Response]) -> None:
        answer = await await_handler(coming, self.listener)
        self._task = None
        if self._answer(answer):
            self._advance()

    def _answer(self, answer: Response) -> bool:
        if self._transport is not None and self._writer.must_settle(answer):
            self._enter(ConnectionState.ANSWER)
            self._task = self._owner.loop.create_task(self._answer_settled(answer))
            return False
        return self._answer_now(answer)

    async def _answer_settled(self, answer: Response) -> None:
        # Not settled in time: this answer goes no farther than the one before it, which is not acknowledged.
        await self._writer.settle()
        self._task = None
        if self._answer_now(answer):
            self._advance()

    def _answer_now(self, answer: Response) -> bool:
        incoming = self._current
        self._current = None
        if incoming is None or self._transport is None:
            return False
        keep_alive = incoming.keep_alive and not self._owner.draining
        # Of a server that stops, `Connection: close` is not the answer to the request's own bytes.
        learnt = self._learn(incoming, answer) if incoming.head and not self._owner.draining else None
        if learnt is not None:
            self._writer.send(learnt, answer)
        else:
            self._writer.write(answer, incoming.request.method, keep_alive=keep_alive)
        if not keep_alive:
            self._finish()
            return False
        return not self._writing_paused

    def _learn(self, incoming: ParsedRequest, answer: Response) -> bytes | None:
        return self._repeats.learn(
            incoming.head, answer, http_date(time.time()), self._asker, keep_alive=incoming.keep_alive
        )

    def _give_up_answer(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        _log.warning("a handler did not answer in time", listener=self.listener, seconds=self._owner.timeouts.answer)
        if self._answer(text_response(503, "The answer took too long. Try again.", (b"Retry-After", b"1"))):
            self._advance()

    def _wait_for_more(self) -> None:
        if self._peer_finished:
            self._finish()
            return
        conversation = self._conversing()
        if conversation.take_continue() and self._transport is not None:
            self._transport.write(CONTINUE)
        phase = PHASE_OF_STAGE[conversation.stage]
        if phase is not self.phase:
            self._enter(phase)
        self._resume_reading()
        if phase is ConnectionState.IDLE and self._owner.draining and self._transport is not None:
            self._transport.close()

    def _refuse(self, refusal: HttpError) -> None:
        _log.debug("request refused", status=refusal.status, reason=refusal.sentence, listener=self.listener)
        self._owner.refused(self, refusal.status)
        self._writer.write(text_response(refusal.status, refusal.sentence), "GET", keep_alive=False)
        self._finish()

    def _finish(self) -> None:
        """End our half, and read a little longer: closing with unread bytes would reset the answer away."""
        transport = self._transport
        if transport is None:
            return
        if self._peer_finished or not transport.can_write_eof():
            transport.close()
        else:
            transport.write_eof()
            self._resume_reading()
        self._enter(ConnectionState.LINGER)
        if transport.get_write_buffer_size():
            self.deadline += self._owner.timeouts.write

    def _enter(self, phase: ConnectionState) -> None:
        self.phase = phase
        self.deadline = self._owner.loop.time() + getattr(self._owner.timeouts, phase.value)

    def _pause_reading(self) -> None:
        if not self._reading_paused and self._transport is not None:
            self._reading_paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._reading_paused and self._transport is not None:
            self._reading_paused = False
            self._transport.resume_reading()
