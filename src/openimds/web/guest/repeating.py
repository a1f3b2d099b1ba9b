"""Answering a request that is, but for its request id, byte for byte one that was answered before: the hot path.

What the HTTP server promises: the bytes are equal, so who asks, what, and with which signature is what was found good
the first time. What is checked here at every call: that nothing of it has changed since.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter, time
from weakref import ref

from openimds.web.guest.records import Record
from openimds.web.guest.rendered import Rendered, Seeds
from openimds.web.guest.request_ids import new_request_id
from openimds.web.guest.request_log import Line
from openimds.web.guest.tally import TALLY

Again = Callable[[bytes], tuple[bytes, bytes] | None]
"""(the request id that was given, or nothing) → (the id it goes by, the body); None: ask properly."""


@dataclass(slots=True)
class Lease:
    """Turns False for all that a service prepared, when another service with other settings takes over."""

    valid: bool = True


@dataclass(slots=True, kw_only=True)  # frozen ones take three times as long to make
class Repeat:
    """An answer to be given again and again."""

    record: ref[Record]
    rendered: ref[Rendered]
    """Not held by this: what a guest asked for once, of a record that is gone, would take memory for ever."""
    seeds: Seeds
    line: Line
    lease: Lease
    until: float
    """Seconds since the epoch: documents tell what day it is."""
    secret: str
    """The name of the one that signed it; empty: none did."""
    still: Callable[[], bool] | None = None
    """Does the same one ask, and may it?"""
    takes_ids: bool = True
    """The request's id is of the hop before. False: it is the guest's own, and not taken."""

    def __call__(self, given: bytes) -> tuple[bytes, bytes] | None:
        started = perf_counter()
        record, rendered = self.record(), self.rendered()
        if record is None or rendered is None or not record.good or not self.lease.valid or time() >= self.until:
            return None
        if self.still is not None and not self.still():
            return None
        record.used = True
        if given and self.takes_ids:
            request_id, shown_id = given, given.decode()
        else:
            shown_id = new_request_id()
            request_id = shown_id.encode()
        if rendered.seed_bytes:
            body = b"".join((rendered.before, self.seeds.text(rendered.seed_bytes), rendered.after))
        else:
            body = rendered.answer.body
        seconds = perf_counter() - started
        TALLY.repeated(self.secret, seconds)
        self.line(shown_id, seconds * 1000)
        return request_id, body
