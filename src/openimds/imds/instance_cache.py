"""A cache of query results of the store. A result is dropped when the store changes.

A request for a cached result needs no database. `invalidation` calls `forget` some milliseconds after a change. The
result of a query that is running at that moment is returned to the requests that wait for it, but is not cached.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import Awaitable, Callable, Hashable, Iterable
from concurrent.futures import Executor
from typing import Any, Protocol, TypeVar

from openimds.resources.errors import StoreUnavailable
from openimds.resources.instance import ChangeSet, Instance

T = TypeVar("T")

MAX_RECORDS = 20_000
MAX_DOCUMENT_BYTES = 32 * 1024 * 1024
SILENCE_SECONDS = 5.0
"""Timeout of a request while the store responds to no query."""
MAX_WAIT_SECONDS = 20.0
"""Timeout of a request while the store responds to other queries."""


class CachedDocument(Protocol):
    @property
    def size(self) -> int:
        """The size in bytes."""


class CacheEntry:
    """A cached result of the store.

    `is_valid` is False once the entry is dropped. A request that received the entry before must not cache anything in it.
    """

    __slots__ = ("__weakref__", "documents", "is_valid", "key", "used", "value")

    def __init__(self, key: Hashable, value: Any) -> None:
        self.key = key
        self.value = value
        self.is_valid = True
        self.used = False
        """Whether the entry was used since the last eviction pass. Setting a flag is cheaper than moving the entry."""
        self.documents: dict[Hashable, Any] = {}
        """The rendered documents (`document_cache.RenderedDocument`) by key."""


class InstanceCache:
    """Results by key. Belongs to the event loop."""

    def __init__(
        self,
        executor: Executor,
        max_records: int = MAX_RECORDS,
        max_document_bytes: int = MAX_DOCUMENT_BYTES,
        instances: Callable[[str], Awaitable[Instance | None]] | None = None,
    ) -> None:
        """`instances`: loads an instance by ID. None if instances are loaded by their query, like all other results."""
        self._executor = executor
        self._instances = instances
        self._max_records = max_records
        self._max_document_bytes = max_document_bytes
        self._document_bytes = 0
        self._responded_at = 0.0
        """The value of `loop.time()` at the store's last response."""
        self._records: OrderedDict[Hashable, CacheEntry] = OrderedDict()
        self._queries: dict[Hashable, asyncio.Future[CacheEntry]] = {}
        self._of_port: defaultdict[str, set[Hashable]] = defaultdict(set)
        self._of_network: defaultdict[str, set[Hashable]] = defaultdict(set)
        self._of_no_instance: set[Hashable] = set()
        """Results that depend on any port, server or subnet: the instances of an address."""

    def __len__(self) -> int:
        return len(self._records)

    async def load(self, key: Hashable, query: Callable[[], T]) -> T:
        """Returns a result, from the cache if possible. Raises StoreUnavailable.

        The key of an instance is `("instance", ID)`.
        """
        value: T = (await self.record(key, query)).value
        return value

    def cached(self, key: Hashable) -> CacheEntry | None:
        """Returns the cached entry. None if there is none."""
        record = self._records.get(key)
        if record is not None:
            record.used = True
        return record

    async def record(self, key: Hashable, query: Callable[[], object]) -> CacheEntry:
        """Returns the entry of a result, from the cache if possible. Raises StoreUnavailable."""
        record = self.cached(key)
        if record is not None:
            return record
        running = self._queries.get(key)
        if running is None:
            running = self._queries[key] = asyncio.ensure_future(self._run_query(key, query))
        return await self._wait(running)

    async def _wait(self, running: asyncio.Future[CacheEntry]) -> CacheEntry:
        now = asyncio.get_running_loop().time
        began = now()
        while True:
            try:
                async with asyncio.timeout(SILENCE_SECONDS):
                    return await asyncio.shield(running)
            except TimeoutError:
                silent = now() - max(self._responded_at, began)
                if silent >= SILENCE_SECONDS or now() - began >= MAX_WAIT_SECONDS:
                    raise StoreUnavailable(f"the store did not respond within {now() - began:.0f} s") from None

    def cache_document(self, record: CacheEntry, key: Hashable, rendered: CachedDocument, size_bytes: int) -> None:
        """Caches a rendered document of this size. If the cache is full, the oldest records lose their documents first."""
        if not record.is_valid:
            return
        record.documents[key] = rendered
        self._document_bytes += size_bytes
        if self._document_bytes > self._max_document_bytes:
            for old in self._records.values():
                self._forget_documents(old)
                if self._document_bytes <= self._max_document_bytes // 2:
                    return

    def forget(self, touched: ChangeSet) -> None:
        """Drops the entries that the changes may concern."""
        if touched.is_empty:
            return
        if touched.everything:
            keys = {*self._records, *self._queries}
        else:
            keys = {("instance", instance_id) for instance_id in touched.instance_ids} | self._of_no_instance
            keys |= {key for key in self._queries if key not in self._records}
            keys.update(*(self._of_port.get(port_id, ()) for port_id in touched.port_ids))
            keys.update(*(self._of_network.get(network_id, ()) for network_id in touched.network_ids))
        self._drop(keys)

    def forget_instance(self, instance_id: str) -> None:
        """Drops the record of an instance that this process changed."""
        self._drop([("instance", instance_id)])

    async def _run_query(self, key: Hashable, query: Callable[[], object]) -> CacheEntry:
        here = asyncio.current_task()
        try:
            value = await self._result(key, query)
            self._responded_at = asyncio.get_running_loop().time()
            record = CacheEntry(key, value)
            if self._queries.get(key) is here:
                self._keep(record)
            else:
                record.is_valid = False  # a change happened during the query
            return record
        finally:
            if self._queries.get(key) is here:
                del self._queries[key]

    async def _result(self, key: Hashable, query: Callable[[], object]) -> object:
        if self._instances is not None and isinstance(key, tuple) and _is_instance(key):
            return await self._instances(key[1])
        return await asyncio.get_running_loop().run_in_executor(self._executor, query)

    def _keep(self, record: CacheEntry) -> None:
        self._records[record.key] = record
        if isinstance(record.value, Instance):
            for nic in record.value.nics:
                self._of_port[nic.port_id].add(record.key)
                self._of_network[nic.network_id].add(record.key)
        elif not _is_instance(record.key):
            self._of_no_instance.add(record.key)
        if len(self._records) > self._max_records:
            self._drop([self._least_used()])

    def _least_used(self) -> Hashable:
        """Returns the oldest entry that was not used since the last pass."""
        while True:
            key, record = next(iter(self._records.items()))
            if not record.used:
                return key
            record.used = False
            self._records.move_to_end(key)

    def _drop(self, keys: Iterable[Hashable]) -> None:
        for key in keys:
            self._queries.pop(key, None)
            record = self._records.pop(key, None)
            if record is None:
                continue
            record.is_valid = False
            self._forget_documents(record)
            self._of_no_instance.discard(key)
            if isinstance(record.value, Instance):
                for nic in record.value.nics:
                    _discard(self._of_port, nic.port_id, key)
                    _discard(self._of_network, nic.network_id, key)

    def _forget_documents(self, record: CacheEntry) -> None:
        self._document_bytes -= sum(rendered.size for rendered in record.documents.values())
        record.documents.clear()


def _is_instance(key: Hashable) -> bool:
    return isinstance(key, tuple) and key[0] == "instance"


def _discard(index: dict[str, set[Hashable]], place: str, key: Hashable) -> None:
    found = index.get(place)
    if found is not None:
        found.discard(key)
        if not found:
            del index[place]
