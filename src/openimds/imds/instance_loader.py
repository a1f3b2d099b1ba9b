"""Instances that are asked for while others are being read, read together: many guests boot at once.

Threads that read at the same time do not get ahead of each other, as the interpreter runs one at a time, and a database
that is far away takes as long for one as for many. So there is one read at a time, of those that wait by then, on a
thread: the event loop goes on. Who asks never gets what was read before it asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Executor
from itertools import islice

from openimds.resources.errors import StoreUnavailable
from openimds.resources.instance import Instance

AT_ONCE = 250
"""Beside a busy event loop, what a read costs is getting the interpreter back after each of its few statements."""

Read = Callable[[Collection[str]], Mapping[str, Instance | None]]
"""Instances by id, None for those that are not there. An instance that cannot be read is left out. Called on a thread.
Raises StoreUnavailable.
"""

_Waiting = Mapping[str, "asyncio.Future[Instance | None]"]


class BatchLoader:
    """Of one event loop."""

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
                taken = dict(islice(self._waiting.items(), AT_ONCE))
                for instance_id in taken:
                    del self._waiting[instance_id]
                await self._answer(taken)
                await asyncio.sleep(0)  # those that have their answer go on
        finally:
            self._work = None

    async def _answer(self, taken: _Waiting) -> None:
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._executor, self._read, tuple(taken))
        except Exception as error:  # noqa: BLE001 - raised again where it was asked
            if len(taken) > 1 and not isinstance(error, StoreUnavailable):
                # One that cannot be told must not take the others with it.
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
