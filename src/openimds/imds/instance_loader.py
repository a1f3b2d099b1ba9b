"""Loads the records of instances in batches, because many instances boot at the same time.

Concurrent reads on threads are not faster, since the interpreter runs one thread at a time. A remote database takes as
long for one instance as for many. So there is one read at a time, on a thread, for all instances that wait. A request
never gets a record that was read before the request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Executor
from itertools import islice

from openimds.resources.errors import StoreUnavailable
from openimds.resources.instance import Instance

BATCH_SIZE = 250
"""Maximum number of instances of one read. The time of a read hardly depends on it: beside a busy event loop, the thread
mostly waits for the GIL after each of its few statements."""

Read = Callable[[Collection[str]], Mapping[str, Instance | None]]
"""Returns instances by ID, with None for IDs that do not exist. An instance that cannot be read is left out. Called on a thread.
Raises StoreUnavailable.
"""

_Waiting = Mapping[str, "asyncio.Future[Instance | None]"]


class BatchLoader:
    """Collects the instance IDs of concurrent requests and reads their instances together. Belongs to the event loop."""

    def __init__(self, executor: Executor, read: Read) -> None:
        self._executor = executor
        self._read = read
        self._waiting: dict[str, asyncio.Future[Instance | None]] = {}
        self._work: asyncio.Task[None] | None = None

    async def instance(self, instance_id: str) -> Instance | None:
        """Raises StoreUnavailable."""
        loop = asyncio.get_running_loop()
        mine = self._waiting.get(instance_id)
        if mine is None:
            mine = self._waiting[instance_id] = loop.create_future()
        if self._work is None:
            self._work = loop.create_task(self._read_all())
        return await asyncio.shield(mine)

    async def _read_all(self) -> None:
        try:
            while self._waiting:
                taken = dict(islice(self._waiting.items(), BATCH_SIZE))
                for instance_id in taken:
                    del self._waiting[instance_id]
                await self._answer(taken)
                await asyncio.sleep(0)  # the waiting requests continue
        finally:
            self._work = None

    async def _answer(self, taken: _Waiting) -> None:
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._executor, self._read, tuple(taken))
        except Exception as error:  # noqa: BLE001 - raised again where it was asked
            if len(taken) > 1 and not isinstance(error, StoreUnavailable):
                # An unreadable instance must not fail the others.
                for instance_id, future in taken.items():
                    await self._answer({instance_id: future})
                return
            for future in taken.values():
                future.set_exception(error)
        else:
            for instance_id, future in taken.items():
                if instance_id in found:
                    future.set_result(found[instance_id])
                else:
                    future.set_exception(StoreUnavailable(f"the store cannot read instance {instance_id}"))
