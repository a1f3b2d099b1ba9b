"""The documents of an instance: rendered at the first request, kept with its record until the record changes.

A document with random bytes (the random seed of meta_data.json) is kept with a gap, which each response fills with new ones.
"""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count

from openimds.imds.authenticators import AuthenticatedInstance
from openimds.imds.instance_cache import InstanceCache
from openimds.metadata.context import DocumentSettings, RenderContext
from openimds.metadata.outcome import Document, Outcome, with_etag
from openimds.metadata.router import DocumentRequest, route
from openimds.resources.instance import Instance

_READS = ("GET", "HEAD")
_numbers = count()
BATCH_SIZE = 64

_LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_ANY_LETTER = _LETTERS * 4
"""The letter of each byte. Four of the 256 values share a letter."""
_LAST_LETTER = {1: _LETTERS[::16] * 64, 2: _LETTERS[::4] * 16}
"""The last letter of a group of one or two bytes, which holds two or four bits and zeros (RFC 4648, section 4)."""

RandomBytes = Callable[[int], bytes]


@dataclass(frozen=True, slots=True, weakref_slot=True)
class RenderedDocument:
    """A rendered document. Its body is complete, or has a gap in which each response has new random bytes."""

    document: Document
    before: bytes = b""
    after: bytes = b""
    seed_bytes: int = 0
    """The number of random bytes, in base64, between `before` and `after`. 0 if the body is that of `document`."""

    @property
    def size(self) -> int:
        return len(self.document.body) + len(self.before) + len(self.after)

    def again(self, seeds: RandomSeeds) -> Document:
        """Returns the document, with new random bytes if it has a gap."""
        if not self.seed_bytes:
            return self.document
        body = b"".join((self.before, seeds.text(self.seed_bytes), self.after))
        return Document(self.document.status, self.document.content_type, body, self.document.headers)


class RandomSeeds:
    """Random seeds in base64, each used once. One call draws the seeds of many documents, because a call is expensive.

    Base64 of random bytes consists of random letters. Drawing letters takes half the time of drawing and encoding bytes.
    """

    def __init__(self, random_bytes: RandomBytes) -> None:
        self._random_bytes = random_bytes
        self._drawn: list[bytes] = []
        self._size = 0
        os.register_at_fork(after_in_child=self.forget)

    def text(self, size: int) -> bytes:
        """Returns `size` random bytes, encoded."""
        if size != self._size or not self._drawn:
            self._draw(size)
        return self._drawn.pop()

    def forget(self) -> None:
        """Drops the stock after a fork, because parent and child would use the same bytes."""
        self._drawn.clear()

    def _draw(self, size: int) -> None:
        groups, rest = divmod(size, 3)
        length = (groups + bool(rest)) * 4
        text = self._random_bytes(length * BATCH_SIZE).translate(_ANY_LETTER)
        if rest:
            text = self._ended(text, length, rest)
        self._size = size
        self._drawn = [text[place : place + length] for place in range(0, length * BATCH_SIZE, length)]

    def _ended(self, letters: bytes, length: int, rest: int) -> bytes:
        """Returns the texts of `length` letters each, with the padding of a last group of `rest` bytes."""
        text = bytearray(letters)
        text[length - 4 + rest :: length] = self._random_bytes(BATCH_SIZE).translate(_LAST_LETTER[rest])
        for missing in range(3 - rest):
            text[length - 1 - missing :: length] = b"=" * BATCH_SIZE
        return bytes(text)


class SeedProbe:
    """Provides random bytes while a document is rendered, and finds their position in it afterwards."""

    def __init__(self) -> None:
        self._given: list[bytes] = []

    @property
    def is_used(self) -> bool:
        return bool(self._given)

    def random_bytes(self, count: int) -> bytes:
        # Real random bytes do not occur in an instance's data by accident.
        self._given.append(os.urandom(count))
        return self._given[-1]

    def rendered(self, document: Document) -> RenderedDocument | None:
        """Returns the document with a gap for random bytes. None if their position is ambiguous."""
        if not self._given:
            return RenderedDocument(document)
        before, found, after = document.body.partition(b64encode(self._given[0]))
        if len(self._given) > 1 or not found or b64encode(self._given[0]) in after:
            return None
        bodiless = Document(document.status, document.content_type, b"", document.headers)
        return RenderedDocument(bodiless, before, after, len(self._given[0]))


@dataclass(frozen=True, slots=True)
class Day:
    name: str
    """`2026-11-22`, in UTC."""
    begins: datetime
    ends: datetime
    ends_at: float
    """Seconds since the epoch."""


class Calendar:
    """The current day in UTC, which some documents contain."""

    def __init__(self, utc_now: Callable[[], datetime]) -> None:
        self._utc_now = utc_now
        self._day = _day_of(utc_now())

    def today(self) -> Day:
        now, day = self._utc_now(), self._day
        if not day.begins <= now < day.ends:
            day = self._day = _day_of(now)
        return day


def _day_of(now: datetime) -> Day:
    begins = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    ends = begins + timedelta(days=1)
    return Day(begins.strftime("%Y-%m-%d"), begins, ends, ends.timestamp())


class DocumentCache:
    """Renders documents at the first request, and keeps them with the instance's record. Belongs to one handler, because
    documents depend on its settings.
    """

    def __init__(
        self,
        records: InstanceCache,
        settings: DocumentSettings,
        *,
        calendar: Calendar,
        random_bytes: RandomBytes,
    ) -> None:
        self._records = records
        self._settings = settings
        self._calendar = calendar
        self._random_bytes = random_bytes
        self._number = next(_numbers)

    def find(self, request: DocumentRequest, instance: AuthenticatedInstance) -> RenderedDocument | Outcome:
        """Returns the outcome of a request, as a RenderedDocument if it is cached. Raises MetadataError."""
        today = self._calendar.today().name
        if request.method not in _READS:
            return route(request, self._context(instance, today, self._random_bytes))
        key = self._key(request, instance, today)
        cached: RenderedDocument | None = instance.record.documents.get(key)
        if cached is not None:
            return cached
        probe = SeedProbe()
        decision = route(request, self._context(instance, today, probe.random_bytes))
        if not isinstance(decision, Document) or decision.status != 200:
            return decision
        rendered = probe.rendered(decision if probe.is_used else with_etag(decision))
        if rendered is None:
            return route(request, self._context(instance, today, self._random_bytes))
        self._records.cache_document(instance.record, key, rendered, rendered.size)
        return rendered

    def _key(self, request: DocumentRequest, instance: AuthenticatedInstance, today: str) -> Hashable:
        # Only documents of an instance without an IPv4 address contain the request's address.
        address = None if _has_ipv4(instance.instance) else instance.address
        # The method is part of the key, because some paths accept GET only. The number stands for the settings.
        return (self._number, today, request.method, request.path.tree, request.path.parts, address)

    def _context(self, instance: AuthenticatedInstance, today: str, random_bytes: RandomBytes) -> RenderContext:
        return RenderContext(
            instance=instance.instance,
            settings=self._settings,
            today=today,
            address=instance.address,
            random_bytes=random_bytes,
        )


def _has_ipv4(instance: Instance) -> bool:
    return any(
        ":" not in address.ip_address for nic in instance.nics for subnet in nic.subnets for address in subnet.addresses
    )
