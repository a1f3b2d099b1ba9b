"""Requests whose bytes came before, answered without reading them again: the hot path.

A response may have a `replay`. It is then remembered under the request's very bytes, with one exception: the
value of X-Openstack-Request-Id, which is new at every request, when it has exactly the form of an id. Equal bytes were
judged before, by every rule that there is, and would be judged the same; so nothing unread ever gets here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from weakref import WeakSet

from openimds.http.messages import Replay, Response
from openimds.http.server.response import render_head

MAX_BYTES = 32 * 1024 * 1024
"""Of remembered heads and answers' headers of all listeners together."""
MAX_HEAD_BYTES = 2048

_MARKS = (b"\r\nX-Openstack-Request-Id: req-", b"\r\nx-openstack-request-id: req-")
"""The start of the request ID, as the metadata agent and as HAProxy write it."""
_ID = re.compile(rb"req-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\r\n")
_ID_BYTES = 40
_NAME = b"x-openstack-request-id"
_OVERHEAD_BYTES = 1000


@dataclass(slots=True)  # frozen ones take three times as long to make
class _Kept:
    replay: Replay
    before_date: bytes
    after_date: bytes
    """Up to the request id's value."""
    length: int
    """Of the whole answer. Dates and ids are all equally long."""
    keep_alive: bool
    bytes: int
    """What it counts for in the room."""


class CacheBudget:
    """What several Repeats may hold together. When it is full, the one that holds most forgets everything, and learns
    anew from what still comes: a guest with many new requests is at the expense of its own listener's.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        """What is held, or more: one that has gone took its share with it unnoticed."""
        self._repeats: WeakSet[ResponseCache] = WeakSet()

    def enter(self, repeats: ResponseCache) -> None:
        self._repeats.add(repeats)

    def take(self, more: int) -> None:
        """Somebody holds so many more bytes, or fewer."""
        self._bytes += more
        if self._bytes <= self._max_bytes:
            return
        if sum(one.bytes for one in self._repeats) > self._max_bytes:
            max(self._repeats, key=lambda one: one.bytes).clear()
        self._bytes = sum(one.bytes for one in self._repeats)


class ResponseCache:
    """Shared by the connections of one listener.

    `asker`: what tells the listener's guests apart, empty where their requests' bytes do. It ends with a line break and
    has no other, so that no two askers' requests are ever the same key.
    """

    def __init__(self, room: CacheBudget | None = None) -> None:
        self._room = room or CacheBudget()
        self._room.enter(self)
        self._kept: dict[bytes, _Kept] = {}
        self.bytes = 0

    def answer(self, data: bytes, date: bytes, asker: bytes = b"") -> tuple[bytes, bool] | None:
        """The whole answer to a request of these bytes, and whether the connection stays open; None when it must be read.
        `date`: as the header has it.
        """
        given = b""
        if asker:
            key = asker + data
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
        kept = self._kept.get(key)
        if kept is None:
            return None
        replay = kept.replay
        replayed = replay(given)
        if replayed is None:
            self._forget(key)
            return None
        request_id, before, between, after = replayed
        answer = b"".join((kept.before_date, date, kept.after_date, request_id, b"\r\n\r\n", before, between, after))
        if len(answer) != kept.length:
            raise RuntimeError("an answer that is given again has another length")
        return answer, kept.keep_alive

    def learn(
        self, head: bytes, answer: Response, date: bytes, asker: bytes = b"", *, keep_alive: bool = True
    ) -> bytes | None:
        """Remember the answer to a request of this head, which had no body and leaves the connection open or does not.

        The answer's bytes; None when it is not remembered.
        """
        replay = answer.replay
        key = _key(head, asker)
        if replay is None or key is None:
            return None
        rendered = render_head(answer, last=_NAME, keep_alive=keep_alive)
        if rendered is None:
            return None
        before_date, after_date, request_id = rendered
        whole = b"".join((before_date, date, after_date, request_id, b"\r\n\r\n", answer.body))
        self._forget(key)
        taken = len(key) + len(after_date) + _OVERHEAD_BYTES
        self._kept[key] = _Kept(replay, before_date, after_date, len(whole), keep_alive, taken)
        self.bytes += taken
        self._room.take(taken)
        return whole

    def clear(self) -> None:
        self._kept.clear()
        self.bytes = 0

    def _forget(self, key: bytes) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self.bytes -= kept.bytes
            self._room.take(-kept.bytes)


def _key(head: bytes, asker: bytes) -> bytes | None:
    """What equal requests have in common; None where that cannot be told, or is too long."""
    if len(head) > MAX_HEAD_BYTES:
        return None
    place = -1 if asker else max(map(head.find, _MARKS))
    has_id = place >= 0 and _ID.match(head, place + 26) is not None
    if head.lower().count(_NAME) != has_id:
        return None  # written in another way, or twice, or by a guest: not for here
    return head[: place + 26] + head[place + 26 + _ID_BYTES :] if has_id else asker + head
