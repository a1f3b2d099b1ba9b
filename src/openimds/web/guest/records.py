"""What the store said, kept as long as it is true."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Executor
from typing import TypeVar

from openimds.resources.errors import StoreUnavailable
from openimds.web.guest.freshness import Freshness

T = TypeVar("T")

MAX_RECORDS = 100_000


class Records:
    """Answers by question, each with the revision at which it was true. Of one event loop."""

    def __init__(self, freshness: Freshness, executor: Executor, max_records: int = MAX_RECORDS) -> None:
        self._freshness = freshness
        self._executor = executor
        self._max_records = max_records
        self._records: OrderedDict[Hashable, tuple[int, object]] = OrderedDict()

    async def ask(self, key: Hashable, question: Callable[[], T]) -> T:
        """The store's answer, from memory while nothing has changed since, or while the store is away.

        Raises StoreUnavailable when the store is away and was never asked this.
        """
        revision = await self._freshness.revision()
        record = self._records.get(key)
        if record is not None and revision in (None, record[0]):
            self._records.move_to_end(key)
            return record[1]  # type: ignore[return-value] # a key always belongs to the same question
        if revision is None:
            raise StoreUnavailable("the store does not answer, and this was not asked for before")
        # The revision was read before the question: a change between the two only makes the record look older.
        answer = await asyncio.get_running_loop().run_in_executor(self._executor, question)
        self._keep(key, revision, answer)
        return answer

    def _keep(self, key: Hashable, revision: int, answer: object) -> None:
        self._records[key] = (revision, answer)
        self._records.move_to_end(key)
        if len(self._records) > self._max_records:
            self._records.popitem(last=False)
