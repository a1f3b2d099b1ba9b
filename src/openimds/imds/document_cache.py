"""An instance's documents: rendered when first asked for, kept with its record."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count

from openimds.imds.authenticators import AuthenticatedInstance
from openimds.imds.instance_cache import InstanceCache
from openimds.imds.rendered_document import RandomBytes, RenderedDocument, SeedProbe
from openimds.metadata.context import DocumentSettings, RenderContext
from openimds.metadata.etags import with_etag
from openimds.metadata.outcome import Document, Outcome
from openimds.metadata.router import DocumentRequest, route
from openimds.resources.instance import Instance

_READS = ("GET", "HEAD")
_numbers = count()


@dataclass(frozen=True, slots=True)
class Day:
    name: str
    """`2026-11-22`, in UTC."""
    begins: datetime
    ends: datetime
    ends_at: float
    """In seconds since the epoch."""


class Calendar:
    """Tells what day it is, as documents do."""

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
    """Of one service: its settings are in what it renders."""

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

    def find(self, asked: DocumentRequest, asker: AuthenticatedInstance) -> RenderedDocument | Outcome:
        """What becomes of the request; Rendered when it is a document that may be kept. Raises Refusal."""
        today = self._calendar.today().name
        if asked.method not in _READS:
            return route(asked, self._reading(asker, today, self._random_bytes))
        key = self._key(asked, asker, today)
        kept = asker.record.documents.get(key)
        if kept is not None:
            return kept
        place = SeedProbe()
        decision = route(asked, self._reading(asker, today, place.random_bytes))
        if not isinstance(decision, Document) or decision.status != 200:
            return decision
        rendered = place.rendered(decision if place.is_used else with_etag(decision))
        if rendered is None:
            return route(asked, self._reading(asker, today, self._random_bytes))
        self._records.keep_document(asker.record, key, rendered)
        return rendered

    def _key(self, asked: DocumentRequest, asker: AuthenticatedInstance, today: str) -> Hashable:
        # An address shows only in documents of an instance that has none of its own.
        address = None if _has_ipv4(asker.instance) else asker.address
        # HEAD is refused where GET is not: a key of its own. Other settings: other documents.
        return (self._number, today, asked.method, asked.path.tree, asked.path.parts, address)

    def _reading(self, asker: AuthenticatedInstance, today: str, random_bytes: RandomBytes) -> RenderContext:
        return RenderContext(
            instance=asker.instance,
            settings=self._settings,
            today=today,
            address=asker.address,
            random_bytes=random_bytes,
        )


def _has_ipv4(instance: Instance) -> bool:
    return any(
        ":" not in address.ip_address for nic in instance.nics for subnet in nic.subnets for address in subnet.addresses
    )
