"""Answering a request that is, but for its request id, byte for byte one that was answered before: the hot path.

What the HTTP server promises: the bytes are equal, so who asks, what, and with which signature is what was found good
the first time. What is checked here at every call: that nothing of it has changed since.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import time
from weakref import ref

from openimds.imds.instance_cache import Record
from openimds.imds.metrics import TALLY
from openimds.imds.rendered_document import Rendered, Seeds
from openimds.imds.request_ids import new_request_id
from openimds.imds.request_log import Line

Again = Callable[[bytes], tuple[bytes, bytes, bytes, bytes] | None]
"""(the request id that was given, or nothing) → (the id it goes by, the body in three pieces); None: ask properly."""


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

    def again(self, given: bytes) -> tuple[bytes, bytes, bytes, bytes] | None:
        # What is called stands in variables: calling it where it is takes twice as long.
        record_now, rendered_now, still, line = self.record, self.rendered, self.still, self.line
        started = time()
        record, rendered = record_now(), rendered_now()
        if record is None or rendered is None or not record.good or not self.lease.valid or started >= self.until:
            return None
        if still is not None and not still():
            return None
        record.used = True
        if given and self.takes_ids:
            request_id, shown_id = given, given.decode()
        else:
            shown_id = new_request_id()
            request_id = shown_id.encode()
        before, seed, after = rendered.before, b"", rendered.after
        if rendered.seed_bytes:
            seed = self.seeds.text(rendered.seed_bytes)
        else:
            before = rendered.answer.body
        seconds = time() - started
        if seconds < 0:
            seconds = 0.0  # the clock was set
        TALLY.repeated(self.secret, seconds)
        line(shown_id, seconds * 1000)
        return request_id, before, seed, after
