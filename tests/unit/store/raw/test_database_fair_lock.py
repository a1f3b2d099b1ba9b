"""The lock of the writers of one process."""

from __future__ import annotations

import threading

from tests.waiting import HANG_SECONDS, until

from openimds.store.raw.database import FairLock


def test_waiting_threads_get_the_lock_in_their_order_before_a_thread_that_had_it() -> None:
    """A project that sends one bulk request after the other kept the write lock from other projects."""
    lock, order = FairLock(), list[str]()
    assert lock.acquire(HANG_SECONDS)
    threads = [threading.Thread(target=_take, args=(lock, order, name)) for name in ("first", "second", "third")]
    for number, thread in enumerate(threads, 1):
        thread.start()
        until(lambda number=number: len(lock._waiting) == number)  # type: ignore[misc]
    lock.release()
    assert lock.acquire(HANG_SECONDS)
    assert order == ["first", "second", "third"]
    lock.release()
    for thread in threads:
        thread.join()


def test_thread_without_the_lock_at_its_timeout_leaves_the_queue() -> None:
    lock = FairLock()
    assert lock.acquire(HANG_SECONDS)
    assert not lock.acquire(0.01)
    lock.release()
    assert lock.acquire(0.01)


def _take(lock: FairLock, order: list[str], name: str) -> None:
    assert lock.acquire(HANG_SECONDS)
    order.append(name)
    lock.release()
