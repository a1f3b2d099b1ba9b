"""Instances that are asked for while others are being read, read together: many guests boot at once.

A read of one instance costs hardly less than a read of ten, and threads that read at the same time do not get ahead of
each other, as the interpreter runs one at a time. So one thread reads for all that wait. Who asks never gets what was
read before it asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from threading import Lock

from openimds.resources.errors import StoreUnavailable
from openimds.resources.instance import Instance
from openimds.store.engine import Store
from openimds.store.instances import InstanceStore

_Waiting = Mapping[str, "Future[Instance | None]"]


class InstancesTogether(InstanceStore):
    """An InstanceStore for many threads; as many instances are read together as threads ask."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._reading = Lock()
        self._adding = Lock()
        self._waiting: dict[str, Future[Instance | None]] = {}

    def instance(self, instance_id: str) -> Instance | None:
        """As InstanceStore has it."""
        with self._adding:
            mine = self._waiting.setdefault(instance_id, Future())
        with self._reading:
            if not mine.done():  # so nobody took it from those that wait
                with self._adding:
                    taken, self._waiting = self._waiting, {}
                self._read(taken)
        return mine.result()

    def _read(self, taken: _Waiting) -> None:
        try:
            found = self.instances(taken)[1]
        except StoreUnavailable as error:
            for future in taken.values():
                future.set_exception(error)
        except Exception:  # noqa: BLE001 - one that cannot be told must not take the others with it
            for instance_id, future in taken.items():
                self._read_alone(instance_id, future)
        else:
            for instance_id, future in taken.items():
                future.set_result(found[instance_id])

    def _read_alone(self, instance_id: str, future: Future[Instance | None]) -> None:
        try:
            future.set_result(self.instances([instance_id])[1][instance_id])
        except Exception as error:  # noqa: BLE001 - raised again where it was asked
            future.set_exception(error)
