"""The bell's end: whoever waits is let go."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from tests.waiting import HANG_SECONDS, until_async

from openimds.control_api.watch.long_poll import ChangeNotifier


class Quiet:
    """A store in which nothing happens."""

    def touched_since(self, revision: int) -> tuple[int, frozenset[str]]:
        return revision, frozenset()

    def on_commit(self, listener: Callable[[int], None]) -> Callable[[], None]:
        del listener
        return lambda: None


async def test_closing_wakes_everybody_and_nobody_waits_any_more() -> None:
    bell = ChangeNotifier(Quiet())
    an_hour = 3600
    waiting = [asyncio.create_task(bell.wait(frozenset({"port"}), 0, an_hour)) for _ in range(3)]
    await until_async(lambda: len(bell._waiters) == 3)
    threading.Thread(target=bell.close).start()
    async with asyncio.timeout(HANG_SECONDS):
        assert await asyncio.gather(*waiting) == [True] * 3
        assert await bell.wait(frozenset({"port"}), 0, an_hour)


def test_one_that_nobody_waited_at_can_be_closed() -> None:
    bell = ChangeNotifier(Quiet())
    bell.close()
    assert bell.is_closed
