"""Answering a request that is, but for its request id, byte for byte one that was answered before: the hot path.

What the HTTP server promises: the bytes are equal, so who asks, what, and with which signature is what was found good
the first time. What is checked here at every call: that nothing of it has changed since.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from openimds.web.guest.records import Record, Records
from openimds.web.guest.rendered import RandomBytes, Rendered
from openimds.web.guest.request_log import Line
from openimds.web.guest.tally import TALLY

Again = Callable[[str], tuple[str, bytes] | None]
"""(the request id that was given, or nothing) → (the id it goes by, the body); None: ask properly."""


@dataclass(slots=True)
class Lease:
    """Turns False for all that a service prepared, when another service with other settings takes over."""

    valid: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat:
    """An answer to be given again and again."""

    records: Records
    record: Record
    rendered: Rendered
    random_bytes: RandomBytes
    line: Line
    lease: Lease
    until: float
    """Seconds since the epoch: documents tell what day it is."""
    secret: str
    """The name of the one that signed it."""

    def __call__(self, given: str) -> tuple[str, bytes] | None:
        started = time.perf_counter()
        if not self.record.good or not self.lease.valid or time.time() >= self.until:
            return None
        request_id = given or f"req-{uuid.uuid4()}"
        body = self.rendered.body(self.random_bytes)
        self.records.touch(self.record)
        seconds = time.perf_counter() - started
        TALLY.signed(self.secret)
        TALLY.answered(200, seconds)
        self.line(request_id, seconds * 1000)
        return request_id, body
