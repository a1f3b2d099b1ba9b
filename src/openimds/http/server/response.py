"""Renders responses, and replays them for equal requests (the hot path).

A response with a `replay` is cached under the bytes of its request. The value of X-Openstack-Request-Id is not part of
the key if it has the form of a generated ID, because it differs for each request. Equal bytes have passed all checks
before, so the cached response needs no parsing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.utils import formatdate
from weakref import WeakSet

from openimds.http.messages import Replay, Response, reason_phrase

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_OURS = frozenset({b"content-length", b"connection", b"date", b"transfer-encoding", b"keep-alive"})
"""Headers that the server writes itself. Those of a handler are dropped."""

_BODILESS = frozenset({204, 304})

_status_lines: dict[int, bytes] = {}
_dates: tuple[int, bytes] = (0, b"")


def render(answer: Response, *, method: str, keep_alive: bool, now: float) -> bytes:
    """Returns the bytes of a response. `now`: seconds since the epoch.

    A response to HEAD has no body, and the length of the GET response: that of `body`, or the handler's Content-Length.
    Raises ValueError for a header with a line break.
    """
    is_head = method == "HEAD"
    length: bytes = b"%d" % len(answer.body)
    parts = [status_line(answer.status), b"Date: ", http_date(now), b"\r\n"]
    for name, value in answer.headers:
        if b"\n" in value or b"\r" in value or b"\n" in name or b"\r" in name:
            raise ValueError(f"the header {name!r} of an answer has a line break in it")
        lowered = name.lower()
        if lowered not in _OURS:
            parts += (name, b": ", value, b"\r\n")
        elif is_head and lowered == b"content-length":
            length = value
    if answer.status not in _BODILESS:
        parts += (b"Content-Length: ", length, b"\r\n")
    parts.append(b"Connection: keep-alive\r\n\r\n" if keep_alive else b"Connection: close\r\n\r\n")
    if not is_head and answer.status not in _BODILESS:
        parts.append(answer.body)
    return b"".join(parts)


def render_head(answer: Response, *, last: bytes, keep_alive: bool) -> tuple[bytes, bytes, bytes] | None:
    """Returns the head of a GET response in three parts: before the date, from the date to the value of the header
    `last` (in lower case), and this value. None if there is not exactly one such header, or if a header has a line break.
    """
    if answer.status in _BODILESS:
        return None
    parts, ending = [b"\r\n"], None
    for name, value in answer.headers:
        lowered = name.lower()
        if lowered == last and ending is not None:
            return None
        if lowered == last:
            ending = name, value
        elif lowered not in _OURS:
            parts += (name, b": ", value, b"\r\n")
    if ending is None:
        return None
    lines = len(parts) // 4 + 3
    connection = b"keep-alive" if keep_alive else b"close"
    parts += (b"Content-Length: %d\r\nConnection: %b\r\n" % (len(answer.body), connection), ending[0], b": ")
    head = b"".join(parts)
    breaks = b"\n" in ending[1] or b"\r" in ending[1] or head.count(b"\n") != lines or head.count(b"\r") != lines
    return None if breaks else (status_line(answer.status) + b"Date: ", head, ending[1])


def status_line(status: int) -> bytes:
    line = _status_lines.get(status)
    if line is None:
        line = _status_lines[status] = f"HTTP/1.1 {status} {reason_phrase(status)}\r\n".encode()
    return line


def http_date(now: float) -> bytes:
    """Returns `Sat, 21 Nov 2026 23:09:00 GMT`. Made once per second."""
    global _dates  # noqa: PLW0603 - a cache with one entry
    second = int(now)
    if _dates[0] != second:
        _dates = (second, formatdate(second, usegmt=True).encode())
    return _dates[1]


FAILED = Response(
    status=500,
    headers=((b"Content-Type", b"text/plain; charset=UTF-8"),),
    body=b"An unknown error has occurred. Please try your request again.",
)


MAX_BYTES = 32 * 1024 * 1024
"""The size of all cached request and response heads of all listeners."""
MAX_HEAD_BYTES = 2048

_MARKS = (b"\r\nX-Openstack-Request-Id: req-", b"\r\nx-openstack-request-id: req-")
"""The start of the request ID, as the metadata agent and as HAProxy write it."""
_ID = re.compile(rb"req-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\r\n")
_ID_BYTES = 40
_NAME = b"x-openstack-request-id"
_OVERHEAD_BYTES = 1000


@dataclass(slots=True)  # a frozen dataclass takes three times as long to make
class _Entry:
    replay: Replay
    before_date: bytes
    after_date: bytes
    """The part up to the value of the request ID."""
    length: int
    """The length of the response. All dates and request IDs have the same length."""
    keep_alive: bool
    bytes: int
    """The size that counts against the budget."""


class CacheBudget:
    """The maximum size of several caches together. If it is exceeded, the largest cache is cleared, so that a client
    with many new requests affects the cache of its own listener.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        """An upper bound of the current size: a cache that was deleted is still included."""
        self._caches: WeakSet[ResponseCache] = WeakSet()

    def enter(self, cache: ResponseCache) -> None:
        self._caches.add(cache)

    def take(self, more: int) -> None:
        """Records that a cache grew by `more` bytes. Negative if it shrank."""
        self._bytes += more
        if self._bytes <= self._max_bytes:
            return
        if sum(one.bytes for one in self._caches) > self._max_bytes:
            max(self._caches, key=lambda one: one.bytes).clear()
        self._bytes = sum(one.bytes for one in self._caches)


class ResponseCache:
    """The cache of one listener.

    `client_key`: the client's key, empty if the request's bytes identify the client. The key ends with a line break and has
    no other, so that the requests of two clients never have the same cache key.
    """

    def __init__(self, budget: CacheBudget | None = None) -> None:
        self._budget = budget or CacheBudget()
        self._budget.enter(self)
        self._entries: dict[bytes, _Entry] = {}
        self.bytes = 0

    def answer(self, data: bytes, date: bytes, client_key: bytes = b"") -> tuple[bytes, bool] | None:
        """Returns the response to a request of these bytes, and whether the connection stays open.

        None if the request must be parsed. `date`: the value of the Date header.
        """
        given = b""
        if client_key:
            key = client_key + data
        else:
            key = data
            place = data.find(_MARKS[0])
            if place < 0:
                place = data.find(_MARKS[1])
            if place >= 0:
                start = place + 26
                if _ID.match(data, start) is None:
                    return None
                given = data[start : start + _ID_BYTES]
                key = data[:start] + data[start + _ID_BYTES :]
        entry = self._entries.get(key)
        if entry is None:
            return None
        replay = entry.replay
        replayed = replay(given)
        if replayed is None:
            self._forget(key)
            return None
        request_id, before, between, after = replayed
        answer = b"".join((entry.before_date, date, entry.after_date, request_id, b"\r\n\r\n", before, between, after))
        if len(answer) != entry.length:
            raise RuntimeError("a replayed response has another length")
        return answer, entry.keep_alive

    def learn(
        self, head: bytes, answer: Response, date: bytes, client_key: bytes = b"", *, keep_alive: bool = True
    ) -> bytes | None:
        """Caches the response to a request with this head and without a body.

        Returns the bytes of the response. None if it is not cached.
        """
        replay = answer.replay
        key = _key(head, client_key)
        if replay is None or key is None:
            return None
        rendered = render_head(answer, last=_NAME, keep_alive=keep_alive)
        if rendered is None:
            return None
        before_date, after_date, request_id = rendered
        whole = b"".join((before_date, date, after_date, request_id, b"\r\n\r\n", answer.body))
        self._forget(key)
        taken = len(key) + len(after_date) + _OVERHEAD_BYTES
        self._entries[key] = _Entry(replay, before_date, after_date, len(whole), keep_alive, taken)
        self.bytes += taken
        self._budget.take(taken)
        return whole

    def clear(self) -> None:
        self._entries.clear()
        self.bytes = 0

    def _forget(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.bytes -= entry.bytes
            self._budget.take(-entry.bytes)


def _key(head: bytes, client_key: bytes) -> bytes | None:
    """Returns the cache key of a request. None if the request is not cached."""
    if len(head) > MAX_HEAD_BYTES:
        return None
    place = -1 if client_key else max(map(head.find, _MARKS))
    has_id = place >= 0 and _ID.match(head, place + 26) is not None
    if head.lower().count(_NAME) != has_id:
        return None  # the request ID occurs twice, in another spelling, or from a client
    return head[: place + 26] + head[place + 26 + _ID_BYTES :] if has_id else client_key + head
