"""The bell's end: whoever waits is let go."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

from openimds.web.control.watch.bell import Bell


class Quiet:
    """A store in which nothing happens."""

    def touched_since(self, revision: int) -> tuple[int, frozenset[str]]:
        return revision, frozenset()

    def on_commit(self, listener: Callable[[int], None]) -> Callable[[], None]:
        del listener
        return lambda: None


def test_closing_wakes_everybody_and_nobody_waits_any_more() -> None:
    async def story() -> float:
        bell = Bell(Quiet())
        started = time.monotonic()
        waiting = [asyncio.create_task(bell.wait(frozenset({"port"}), 0, 30)) for _ in range(3)]
        await asyncio.sleep(0)
        threading.Thread(target=bell.close).start()
        await asyncio.gather(*waiting)
        await bell.wait(frozenset({"port"}), 0, 30)
        return time.monotonic() - started

    assert asyncio.run(story()) < 5


def test_one_that_nobody_waited_at_can_be_closed() -> None:
    bell = Bell(Quiet())
    bell.close()
    assert bell.is_closed
