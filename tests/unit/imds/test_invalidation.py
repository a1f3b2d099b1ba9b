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
        self.unavailable = False
        self.broken = False
        self.queried_revisions: list[int | None] = []

    def newest(self) -> int:
        if self.unavailable:
            raise StoreUnavailable("unavailable")
        return self.revision

    def after(self, revision: int | None) -> ChangeSet:
        if self.unavailable:
            raise StoreUnavailable("unavailable")
        if self.broken:
            self.broken = False
            raise RuntimeError("unexpected error")
        self.queried_revisions.append(revision)
        return ChangeSet(revision=self.revision, everything=revision is None)


class SilentChanges(Changes):
    """A store that does not respond before the gate opens."""

    def __init__(self, gate: threading.Event) -> None:
        super().__init__()
        self.gate = gate

    def after(self, revision: int | None) -> ChangeSet:
        self.gate.wait(HANG_SECONDS)
        return super().after(revision)


def test_changes_are_received_in_order_and_an_unavailable_store_is_logged_once() -> None:
    async def main() -> None:
        changes = Changes()
        received: list[ChangeSet] = []
        poller = ChangePoller(changes, received.append, PollIntervals(poll_seconds=0.001))
        poller.start()
        await until_async(lambda: len(received) == 1)
        assert received[0].everything
        changes.revision = 6
        await until_async(lambda: len(received) == 2)
        changes.unavailable = True
        await until_async(lambda: poller.store_is_away)
        changes.revision = 7
        changes.unavailable = False
        await until_async(lambda: not poller.store_is_away)
        await until_async(lambda: len(received) == 3)
        assert changes.queried_revisions == [None, 5, 6]
        changes.broken = True
        changes.revision = 8
        await until_async(lambda: len(received) == 4)
        assert received[-1].everything  # the poller cannot know the missed changes
        poller.stop()

    with structlog.testing.capture_logs() as logs:
        asyncio.run(main())
    events = [line["event"].split(":")[0] for line in logs]
    assert events == ["store unavailable", "store available again", "store changes unreadable"]


async def test_silent_store_is_unavailable() -> None:
    gate = threading.Event()
    changes = SilentChanges(gate)
    poller = ChangePoller(changes, lambda _changes: None, PollIntervals(away_seconds=0.02))
    poller.start()
    await until_async(lambda: poller.store_is_away)
    gate.set()
    poller.stop()
