"""The instance records that the agent holds, and the settings that documents are rendered with.

Both come from the control API's extension (docs/design/watch.md). A real OpenStack does not have it. The agent then
holds no records and forwards all requests.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import structlog

from openimds.imds.instance_cache import CacheEntry, InstanceCache
from openimds.imds.invalidation import ChangeFeed, ChangePoller, PollIntervals
from openimds.metadata.context import DocumentSettings
from openimds.resources.errors import StoreUnavailable
from openimds.resources.instance import ChangeSet, Instance

log = structlog.get_logger(__name__)

RECORD_THREADS = 64
"""The number of instances whose first requests wait for the control API at the same time."""
AGE_CHECK_SECONDS = 0.5
SETTINGS_TIMEOUT_SECONDS = 1.0
"""The time that a request waits for the settings. A control API that is silent takes longer than a client waits."""
RETRY_SECONDS = 1.0
"""The time without a further request to the control API after one failed."""
_EVERYTHING = ChangeSet(revision=0, everything=True)


class RecordSource(ChangeFeed, Protocol):
    """The control API's extension with instance records, or a fake of it."""

    def start(self) -> None: ...
    def close(self) -> None: ...
    def instance(self, instance_id: str) -> Instance | None:
        """Blocks. Raises StoreUnavailable."""

    def settings(self) -> DocumentSettings:
        """Blocks. Raises StoreUnavailable."""

    @property
    def age_seconds(self) -> float:
        """The maximum age of the changes that were received last."""

    def subscribe_settings(self, callback: Callable[[DocumentSettings], None]) -> None:
        """`callback` receives each change of the settings, on a thread of the source."""


class InstanceRecords:
    """Belongs to the event loop."""

    def __init__(self, source: RecordSource, intervals: PollIntervals, max_age_seconds: float) -> None:
        """`max_age_seconds`: records are dropped if no change set was received for this time."""
        self.settings: DocumentSettings | None = None
        """None while the settings are unknown. No record is loaded before they are known."""
        self.threads = ThreadPoolExecutor(RECORD_THREADS, "record")
        self.cache = InstanceCache(self.threads)
        self._source = source
        self._max_age_seconds = max_age_seconds
        self._poller = ChangePoller(source, self.cache.forget, intervals, reports_first_failure=False)
        self._on_settings: list[Callable[[], None]] = []
        self._load: asyncio.Task[None] | None = None
        self._next_load_at = 0.0
        self._next_record_at = 0.0
        self._age_check: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop

    def start(self) -> None:
        """Called from the event loop."""
        self._loop = asyncio.get_running_loop()
        self._source.subscribe_settings(self._receive_settings)
        self._source.start()
        self._poller.start()
        self._start_load()
        self._check_age()

    def stop(self) -> None:
        """Cancels the load and the age check. Called before the event loop ends."""
        if self._load is not None:
            self._load.cancel()
        if self._age_check is not None:
            self._age_check.cancel()
        self._poller.stop()
        self._source.close()
        self.threads.shutdown(wait=False, cancel_futures=True)

    def subscribe(self, callback: Callable[[], None]) -> None:
        """`callback` is called after each change of `settings`."""
        self._on_settings.append(callback)

    async def wait_for_settings(self) -> None:
        """Waits for the settings, for SETTINGS_TIMEOUT_SECONDS at most. Concurrent calls share one request."""
        if self._load is None:
            if time.monotonic() < self._next_load_at:
                return
            self._start_load()
        if self._load is not None:
            await asyncio.wait([self._load], timeout=SETTINGS_TIMEOUT_SECONDS)

    async def load(self, instance_id: str) -> CacheEntry | None:
        """Returns the record of an instance. None if the control API does not provide it now."""
        if time.monotonic() < self._next_record_at:
            return None
        try:
            return await self.cache.record(("instance", instance_id), lambda: self._read(instance_id))
        except StoreUnavailable as error:
            self._next_record_at = time.monotonic() + RETRY_SECONDS
            log.debug("instance record unavailable", instance_id=instance_id, reason=error.message)
            return None

    def _read(self, instance_id: str) -> Instance | None:
        if self.settings is None:
            raise StoreUnavailable("the settings of documents are unknown")
        if self._source.age_seconds > self._max_age_seconds:
            raise StoreUnavailable("no changes were received for too long")
        return self._source.instance(instance_id)

    def _check_age(self) -> None:
        if self._source.age_seconds > self._max_age_seconds:
            self.cache.forget(_EVERYTHING)
        self._age_check = self._loop.call_later(AGE_CHECK_SECONDS, self._check_age)

    def _start_load(self) -> None:
        self._load = asyncio.get_running_loop().create_task(self._load_settings())

    async def _load_settings(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._use(await loop.run_in_executor(self.threads, self._source.settings))
        except StoreUnavailable as error:
            log.debug("document settings unavailable, requests are forwarded", reason=error.message)
            self._next_load_at = time.monotonic() + RETRY_SECONDS
        finally:
            self._load = None

    def _receive_settings(self, settings: DocumentSettings) -> None:
        """Runs on a thread of the source."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._use, settings)

    def _use(self, settings: DocumentSettings) -> None:
        if settings != self.settings:
            self.settings = settings
            for callback in self._on_settings:
                callback()
