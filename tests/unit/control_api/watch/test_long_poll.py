"""The end of a ChangeNotifier."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from tests.waiting import HANG_SECONDS, until_async

from openimds.control_api.watch.long_poll import ChangeNotifier


class Quiet:
    """A store without changes."""

    def touched_since(self, revision: int) -> tuple[int, frozenset[str]]:
        return revision, frozenset()

    def on_commit(self, listener: Callable[[int], None]) -> Callable[[], None]:
        del listener
        return lambda: None


async def test_closed_notifier_wakes_all_waiters_and_ends_later_waits() -> None:
    bell = ChangeNotifier(Quiet())
    an_hour = 3600
    waiting = [asyncio.create_task(bell.wait(frozenset({"port"}), 0, an_hour)) for _ in range(3)]
    await until_async(lambda: len(bell._waiters) == 3)
    threading.Thread(target=bell.close).start()
    async with asyncio.timeout(HANG_SECONDS):
        assert await asyncio.gather(*waiting) == [True] * 3
        assert await bell.wait(frozenset({"port"}), 0, an_hour)


def test_unused_notifier_can_be_closed() -> None:
    bell = ChangeNotifier(Quiet())
    bell.close()
    assert bell.is_closed
