"""Dynamic vendor data targets that are slow, fail, and say how long they may be remembered."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import structlog
from tests.waiting import HANG_SECONDS, until_async

from openimds.imds.vendordata import THREADS_OF_A_TARGET, Target, VendordataCache, VendordataTargets, VendordataTimeouts
from openimds.metadata.outcome import MetadataError
from openimds.resources.errors import PeerFailed
from openimds.resources.instance import VendordataResponse


class Targets:
    """Targets by URL: what each does when it is asked; and what was asked."""

    def __init__(self, **does: Callable[[], VendordataResponse]) -> None:
        self.does = does
        self.asked: list[tuple[str, str]] = []

    def post(self, url: str, question: Mapping[str, Any]) -> VendordataResponse:
        self.asked.append((url, question["instance-id"]))
        return self.does[url]()

    def vendors(self, **patience: Any) -> VendordataTargets:
        return VendordataTargets([Target(name, name) for name in self.does], self.post, VendordataTimeouts(**patience))


def question(instance: str = "i1", **more: str) -> dict[str, Any]:
    return {"instance-id": instance} | more


def says(content: Any, fresh_seconds: float = 0) -> Callable[[], VendordataResponse]:
    return lambda: VendordataResponse(content, 10, fresh_seconds)


def fails() -> VendordataResponse:
    raise PeerFailed("refused")


def test_all_at_the_same_time() -> None:
    """Each waits until the other has been asked."""
    together = threading.Barrier(2, timeout=HANG_SECONDS)

    def meets() -> VendordataResponse:
        together.wait()
        return VendordataResponse({"met": True})

    found = asyncio.run(Targets(a=meets, b=meets).vendors().ask(question()))
    assert found == {"a": {"met": True}, "b": {"met": True}}


def test_a_slow_target_delays_no_other_target_and_no_other_instance() -> None:
    """More instances wait for it than it has threads: another target answers meanwhile."""
    never = threading.Event()
    targets = Targets(slow=lambda: _when(never))
    quick = Targets(quick=says(1))

    async def story() -> None:
        vendors, others = targets.vendors(seconds=HANG_SECONDS), quick.vendors()
        many = [asyncio.create_task(vendors.ask(question(f"i{n}"))) for n in range(3 * THREADS_OF_A_TARGET)]
        await until_async(lambda: len(targets.asked) == THREADS_OF_A_TARGET, "threads fill it")
        assert await others.ask(question()) == {"quick": 1}
        assert not any(task.done() for task in many), "the quick one did not wait for the slow one"
        never.set()
        await asyncio.gather(*many)

    asyncio.run(_ended(story(), never))


def _when(opened: threading.Event) -> VendordataResponse:
    opened.wait(HANG_SECONDS)
    return VendordataResponse(None)


def test_patience_with_a_slow_target_ends() -> None:
    never = threading.Event()
    targets = Targets(slow=lambda: _when(never))

    async def story() -> int:
        vendors = targets.vendors(seconds=0.2)
        many = [asyncio.create_task(vendors.ask(question(f"i{n}"))) for n in range(3 * THREADS_OF_A_TARGET)]
        assert await asyncio.gather(*many) == [{"slow": {}}] * len(many)
        return len(targets.asked)

    with structlog.testing.capture_logs() as logs:
        asked = asyncio.run(_ended(story(), never))
    assert asked == THREADS_OF_A_TARGET  # those in the queue were taken out of it
    assert [line["event"] for line in logs] == ["vendor data target failed"]


async def _ended(story: Any, never: threading.Event) -> Any:
    try:
        return await story
    finally:
        never.set()


def test_one_question_at_a_time_for_all_who_want_to_know_the_same() -> None:
    gate = threading.Event()

    def waits() -> VendordataResponse:
        gate.wait(HANG_SECONDS)
        return VendordataResponse(7)

    targets = Targets(a=waits)

    async def story() -> list[Any]:
        vendors = targets.vendors()
        tasks = [asyncio.create_task(vendors.ask(question())) for _ in range(5)]
        await until_async(lambda: targets.asked)
        tasks.pop().cancel()  # its guest went away; the others still want to know
        gate.set()
        return list(await asyncio.gather(*tasks))

    assert asyncio.run(story()) == [{"a": 7}] * 4
    assert len(targets.asked) == 1


async def test_answers_are_kept_as_the_target_allows() -> None:
    targets = Targets(kept=says(1, 60), not_kept=says(2))

    vendors = targets.vendors()
    for instance in ("i1", "i1", "i2"):
        assert await vendors.ask(question(instance)) == {"kept": 1, "not_kept": 2}
    await vendors.ask(question("i1", hostname="new"))  # another question
    assert [asked for asked in targets.asked if asked[0] == "kept"] == [("kept", "i1"), ("kept", "i2"), ("kept", "i1")]
    assert len([asked for asked in targets.asked if asked[0] == "not_kept"]) == 4


def test_a_failure_is_not_kept_and_is_told_once() -> None:
    does = [says(3, 60), fails, fails]

    def next_of_them() -> VendordataResponse:
        return does.pop()()

    targets = Targets(a=next_of_them)

    async def story() -> list[Any]:
        vendors = targets.vendors()
        return [await vendors.ask(question()) for _ in range(4)]

    with structlog.testing.capture_logs() as logs:
        assert asyncio.run(story()) == [{"a": {}}, {"a": {}}, {"a": 3}, {"a": 3}]
    assert [line["event"] for line in logs] == ["vendor data target failed", "vendor data target available again"]


def test_fatal_failures() -> None:
    vendors = Targets(a=says(1), b=fails).vendors
    with pytest.raises(MetadataError) as refused:
        asyncio.run(vendors(failure_is_fatal=True).ask(question()))
    assert refused.value.status == 503


def test_answers_have_bounds_and_an_end() -> None:
    now = [0.0]
    kept = VendordataCache(lambda: now[0], max_answers=2, max_bytes=100)
    for name in (b"a", b"b"):
        kept.put(name, VendordataResponse(name, 10, 5))
    assert kept.get(b"a")
    kept.put(b"c", VendordataResponse(b"c", 10, 5))
    assert (kept.get(b"b"), bool(kept.get(b"a")), bool(kept.get(b"c"))) == (None, True, True)
    kept.put(b"large", VendordataResponse(b"large", 95, 5))
    assert (kept.get(b"a"), kept.get(b"c"), bool(kept.get(b"large"))) == (None, None, True)
    now[0] = 5
    assert kept.get(b"large") is None
    kept.put(b"huge", VendordataResponse(b"huge", 101, 5))
    assert kept.get(b"huge") is None
