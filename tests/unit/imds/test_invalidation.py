from __future__ import annotations

import asyncio
import threading

import structlog
from tests.waiting import HANG_SECONDS, until_async

from openimds.imds.invalidation import ChangePoller, PollIntervals
from openimds.resources.errors import StoreUnavailable
from openimds.resources.instance import ChangeSet


class Changes:
    def __init__(self) -> None:
        self.revision = 5
        self.away = False
        self.broken = False
        self.asked_after: list[int | None] = []

    def newest(self) -> int:
        if self.away:
            raise StoreUnavailable("gone")
        return self.revision

    def after(self, revision: int | None) -> ChangeSet:
        if self.away:
            raise StoreUnavailable("gone")
        if self.broken:
            self.broken = False
            raise RuntimeError("a mistake of ours")
        self.asked_after.append(revision)
        return ChangeSet(revision=self.revision, everything=revision is None)


class SilentChanges(Changes):
    """Does not answer before `gate` opens."""

    def __init__(self, gate: threading.Event) -> None:
        super().__init__()
        self.gate = gate

    def after(self, revision: int | None) -> ChangeSet:
        self.gate.wait(HANG_SECONDS)
        return super().after(revision)


def test_changes_are_heard_in_order_and_an_away_store_is_said_once() -> None:
    async def scene() -> None:
        changes = Changes()
        heard: list[ChangeSet] = []
        fresh = ChangePoller(changes, heard.append, PollIntervals(look_seconds=0.001))
        fresh.start()
        await until_async(lambda: len(heard) == 1)
        assert heard[0].everything
        changes.revision = 6
        await until_async(lambda: len(heard) == 2)
        changes.away = True
        await until_async(lambda: fresh.store_is_away)
        changes.revision = 7
        changes.away = False
        await until_async(lambda: not fresh.store_is_away)
        await until_async(lambda: len(heard) == 3)
        assert changes.asked_after == [None, 5, 6]
        changes.broken = True
        changes.revision = 8
        await until_async(lambda: len(heard) == 4)
        assert heard[-1].everything  # what was missed is not known
        fresh.stop()

    with structlog.testing.capture_logs() as logs:
        asyncio.run(scene())
    events = [line["event"].split(":")[0] for line in logs]
    assert events == ["store unavailable", "store available again", "store changes unreadable"]


async def test_a_silent_store_is_away() -> None:
    gate = threading.Event()
    changes = SilentChanges(gate)
    fresh = ChangePoller(changes, lambda _touched: None, PollIntervals(away_seconds=0.02))
    fresh.start()
    await until_async(lambda: fresh.store_is_away)
    gate.set()
    fresh.stop()
