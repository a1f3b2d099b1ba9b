"""One client connection, which sends requests and receives their responses one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import httptools

from openimds.http.messages import Response


class ConnectionBrokenError(Exception):
    """The connection ended, or the response is malformed. `answer_began`: part of a response was received."""

    def __init__(self, sentence: str, *, answer_began: bool) -> None:
        super().__init__(sentence)
        self.answer_began = answer_began


class ClientConnection(asyncio.Protocol):
    """Carries one request at a time."""

    def __init__(self, max_response_bytes: int, on_lost: Callable[[ClientConnection], None]) -> None:
        self._max_bytes = max_response_bytes
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Response] | None = None
        self._response: _IncomingResponse | None = None
        self._keep_alive = True
        self.idle_since = 0.0
        self.deadline = 0.0
        """The deadline of the current request, in the event loop's time."""

    @property
    def reusable(self) -> bool:
        """Whether another request may be sent."""
        transport = self._transport
        return transport is not None and self._keep_alive and self._waiter is None and not transport.is_closing()

    def send(self, method: str, data: bytes, waiter: asyncio.Future[Response]) -> None:
        """Sends a rendered request. `waiter` receives the response, ConnectionBrokenError or TimeoutError."""
        transport = self._transport
        if transport is None or transport.is_closing():
            waiter.set_exception(ConnectionBrokenError("the connection was closed", answer_began=False))
            return
        self._waiter = waiter
        self._response = _IncomingResponse(is_head=method == "HEAD", max_bytes=self._max_bytes)
        transport.write(data)

    def expire(self, now: float) -> None:
        """Ends the current request if its deadline is over."""
        waiter = self._waiter
        if waiter is not None and self.deadline <= now:
            if not waiter.done():
                waiter.set_exception(TimeoutError())
            self.close()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        response, waiter = self._response, self._waiter
        if response is None or waiter is None or waiter.done():
            self._keep_alive = False  # the server sent bytes without a request
            self.close()
            return
        try:
            response.feed(data)
        except httptools.HttpParserError as error:
            self._fail(f"its answer cannot be read: {error}")
        except _TooLargeError:
            self._fail(f"its answer is larger than {self._max_bytes} bytes")
        else:
            if response.complete:
                self._keep_alive = response.keep_alive
                self._waiter = self._response = None
                waiter.set_result(response.value())

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._keep_alive = False
        if error is None and self._response is not None and self._response.ends_with_connection:
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_result(self._response.value())
        else:
            self._fail("the connection was closed" if error is None else str(error) or type(error).__name__)
        self._on_lost(self)

    def _fail(self, sentence: str) -> None:
        if self._waiter is not None and not self._waiter.done():
            began = self._response is not None and self._response.began
            self._waiter.set_exception(ConnectionBrokenError(sentence, answer_began=began))
        self.close()


class _TooLargeError(Exception):
    pass


class _IncomingResponse:
    """Collects llhttp's callbacks into a response. Interim responses (1xx) are skipped."""

    def __init__(self, *, is_head: bool, max_bytes: int) -> None:
        self._is_head = is_head
        self._left = max_bytes
        self._parser = httptools.HttpResponseParser(self)
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []
        self._status = 0
        self._in_body = False
        self.keep_alive = False
        self.began = False
        self.complete = False

    @property
    def ends_with_connection(self) -> bool:
        """Whether the end of the connection ends the body, because it has neither a length nor chunks."""
        names = {name.lower() for name, _ in self._headers}
        return self._in_body and not self.complete and not names & {b"content-length", b"transfer-encoding"}

    def feed(self, data: bytes) -> None:
        self.began = True
        self._left -= len(data)
        if self._left < 0:
            raise _TooLargeError
        if self.complete:
            self.keep_alive = False
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.complete, self.keep_alive = True, False
        except httptools.HttpParserError as error:
            self._handle_error(error)

    def _handle_error(self, error: httptools.HttpParserError) -> None:
        if not self.complete:
            raise error
        self.keep_alive = False  # malformed bytes after a complete response

    def value(self) -> Response:
        return Response(status=self._status, headers=tuple(self._headers), body=b"".join(self._body))

    def on_message_begin(self) -> None:
        if self.complete:
            self.keep_alive = False  # a second response without a request

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.complete:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self.complete:
            return
        self._status = self._parser.get_status_code()
        self._in_body = self._status >= 200
        if self._is_head and self._in_body:
            self._finish()

    def on_body(self, data: bytes) -> None:
        if not self.complete:
            self._body.append(data)

    def on_message_complete(self) -> None:
        if self.complete:
            return
        if self._status < 200:
            self._headers.clear()
            return
        self._finish()

    def _finish(self) -> None:
        self.complete = True
        self.keep_alive = self._parser.should_keep_alive() or (self._is_head and not self._closes())

    def _closes(self) -> bool:
        return any(name.lower() == b"connection" and b"close" in value.lower() for name, value in self._headers)
