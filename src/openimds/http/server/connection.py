"""The I/O of one connection: reads requests, calls the handler, writes responses, and enforces the timeouts."""

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
from openimds.http.server.response import CONTINUE, FAILED, ResponseCache, http_date, render
from openimds.http.server.socket_ttl import SocketTtl

_log = structlog.get_logger(__name__)


def call_handler(handler: Handler, request: Request, listener: str) -> Response | Coroutine[Any, Any, Response]:
    """Returns the handler's response, or a coroutine for `await_handler`. An exception becomes a 500."""
    try:
        return cast(Response | Coroutine[Any, Any, Response], handler(request))
    except Exception as error:  # noqa: BLE001 - each request gets a response
        return _failed(listener, error)


async def await_handler(coming: Coroutine[Any, Any, Response], listener: str) -> Response:
    try:
        return await coming
    except asyncio.CancelledError:
        raise
    except Exception as error:  # noqa: BLE001 - each request gets a response
        return _failed(listener, error)


def _failed(listener: str, error: Exception) -> Response:
    _log.error("request handler failed", listener=listener, exc_info=error)
    return FAILED


class ConnectionState(Enum):
    """The phases of a connection. `Timeouts` has a field with the name of each value."""

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
    """Writes the responses of one connection, with the hop limit of each."""

    __slots__ = ("_listener", "_transport", "hops")

    def __init__(self, transport: asyncio.Transport, listener: str) -> None:
        self._transport = transport
        self._listener = listener
        self.hops: SocketTtl | None = None
        """The lowered TTL of the last response. None for the normal TTL."""

    def write(self, answer: Response, method: str, *, keep_alive: bool) -> None:
        """Writes a response. A malformed response becomes a 500."""
        try:
            data = render(answer, method=method, keep_alive=keep_alive, now=time.time())
        except ValueError:
            _log.exception("response malformed", listener=self._listener)
            data = render(FAILED, method=method, keep_alive=keep_alive, now=time.time())
        self.send(data, answer)

    def send(self, data: bytes, answer: Response) -> None:
        """Writes the bytes of a response."""
        self._set_hops(answer.hop_limit)
        self._transport.write(data)

    def must_settle(self, answer: Response) -> bool:
        """Returns whether the response must wait until the packets before it are acknowledged.

        A change of the TTL applies to retransmissions too.
        """
        hops = self.hops
        if hops is None:
            if answer.hop_limit is None:
                return False
            hops = SocketTtl(self._transport)
        return not hops.settled

    async def settle(self) -> None:
        """Waits until all packets are acknowledged, for `socket_ttl.SETTLE_SECONDS` at most."""
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
    """The part of the server that its connections use."""

    handler: Handler
    timeouts: Timeouts
    draining: bool
    loop: asyncio.AbstractEventLoop
    date: bytes
    """The value of the Date header, updated four times per second."""
    idle_deadline: float
    """The deadline of a connection that becomes idle now."""

    def admit(self, connection: Connection) -> Response | None:
        """Counts a new connection. Returns the response to a rejected connection, else None."""

    def refused(self, connection: Connection, status: int) -> None:
        """Counts a rejected request."""

    def forget(self, connection: Connection) -> None: ...


class Connection(asyncio.Protocol):
    """Reads requests, calls the handler for one request at a time, and writes the responses in order."""

    def __init__(
        self,
        owner: Owner,
        limits: Limits,
        listener: str,
        cache: ResponseCache | None = None,
        *,
        source_mac: SourceMac | None = None,
        guest_of: GuestOf | None = None,
    ) -> None:
        self._owner = owner
        self._source_mac = source_mac
        self._guest_of = guest_of
        self._client_key = b""
        self._cache = cache or ResponseCache()
        self._limits = limits
        self.listener = listener
        self._transport: asyncio.Transport | None = None
        self._writer: ResponseWriter
        """Set by `connection_made`."""
        self._parser: RequestParser | None = None
        """None while all requests were replayed."""
        self._current: ParsedRequest | None = None
        self._task: asyncio.Task[None] | None = None
        self._reading_paused = False
        self._writing_paused = False
        self._peer_finished = False
        self.peer = Peer()
        self.phase = ConnectionState.IDLE
        self.deadline = 0.0
        """In the event loop's time. The server checks it periodically."""

    # asyncio's calls ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if transport.get_extra_info("peername") is None:
            self.phase = ConnectionState.LINGER
            self._transport.abort()  # the peer reset the connection before it was accepted
            return
        self._writer = ResponseWriter(self._transport, self.listener)
        self.peer = peer_of(transport, self._source_mac, self._guest_of)
        self._client_key = self.peer.key
        self._enter(ConnectionState.IDLE)
        turned_away = self._owner.admit(self)
        if turned_away is not None:
            self._writer.write(turned_away, "GET", keep_alive=False)
            self._transport.close()
            self.phase = ConnectionState.LINGER

    def data_received(self, data: bytes) -> None:
        # The hot path: each call counts. Requests with the bytes of an earlier request are replayed here.
        owner, transport = self._owner, self._transport
        if self.phase is _IDLE and transport is not None and not owner.draining and self._writer.hops is None:
            try:
                replayed = self._cache.answer(data, owner.date, self._client_key)
            except Exception:  # noqa: BLE001 - the request is parsed instead
                _log.exception("response replay failed", listener=self.listener)
                replayed = None
            if replayed is not None:
                answer, stays = replayed
                self.deadline = owner.idle_deadline
                transport.write(answer)
                if not stays:
                    self._finish()
                return
        if self.phase is ConnectionState.LINGER:
            return
        parser = self._request_parser()
        parser.receive(data)
        if self._current is None and not self._writing_paused:
            self._advance()
        elif parser.buffered > self._limits.head_bytes:
            self._pause_reading()

    def eof_received(self) -> bool:
        """The peer ends its half of the connection. Received requests are still answered."""
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
        """Handles the end of the deadline."""
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
        """Closes an idle connection soon. Otherwise the current response has `Connection: close`."""
        if self._transport is None or self.phase is not ConnectionState.IDLE:
            return
        if idle_seconds > 0:
            self.deadline = min(self.deadline, self._owner.loop.time() + idle_seconds)
        else:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _request_parser(self) -> RequestParser:
        if self._parser is None:
            peer = self.peer
            self._parser = RequestParser(
                self._limits, peer=peer.address, peer_port=peer.port, listener=self.listener, mac=peer.mac
            )
        return self._parser

    # Requests -----------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Handles complete requests, as long as responses are immediate and the peer reads them."""
        parser = self._request_parser()
        while self._transport is not None and not self._writing_paused and self.phase is not ConnectionState.LINGER:
            try:
                incoming = parser.next()
            except HttpError as refusal:
                self._refuse(refusal)
                return
            if incoming is None:
                self._wait_for_more(parser.stage)
                return
            self._current = incoming
            if not self._handle(incoming):
                return

    def _handle(self, incoming: ParsedRequest) -> bool:
        """Calls the handler. Returns True if the response is written and the next request may follow."""
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
        # If the timeout ends, the response keeps the TTL of the one before it.
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
        # `Connection: close` of a stopping server must not be replayed.
        learnt = self._cache_response(incoming, answer) if incoming.head and not self._owner.draining else None
        if learnt is not None:
            self._writer.send(learnt, answer)
        else:
            self._writer.write(answer, incoming.request.method, keep_alive=keep_alive)
        if not keep_alive:
            self._finish()
            return False
        return not self._writing_paused

    def _cache_response(self, incoming: ParsedRequest, answer: Response) -> bytes | None:
        return self._cache.learn(
            incoming.head, answer, http_date(time.time()), self._client_key, keep_alive=incoming.keep_alive
        )

    def _give_up_answer(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        _log.warning("request handler timed out", listener=self.listener, seconds=self._owner.timeouts.answer)
        if self._answer(text_response(503, "The answer took too long. Try again.", (b"Retry-After", b"1"))):
            self._advance()

    def _wait_for_more(self, state: ParserState) -> None:
        if self._peer_finished:
            self._finish()
            return
        parser = self._request_parser()
        if parser.owes_continue and parser.take_continue() and self._transport is not None:
            self._transport.write(CONTINUE)
        phase = PHASE_OF_STAGE[state]
        if phase is not self.phase:
            self._enter(phase)
        self._resume_reading()
        if phase is ConnectionState.IDLE and self._owner.draining and self._transport is not None:
            self._transport.close()

    def _refuse(self, refusal: HttpError) -> None:
        _log.debug("request rejected", status=refusal.status, reason=refusal.sentence, listener=self.listener)
        self._owner.refused(self, refusal.status)
        self._writer.write(text_response(refusal.status, refusal.sentence), "GET", keep_alive=False)
        self._finish()

    def _finish(self) -> None:
        """Ends this half of the connection, and reads for a while: closing with unread bytes would reset the response."""
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
