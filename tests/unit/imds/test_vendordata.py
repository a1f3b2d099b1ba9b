"""Dynamic vendor data targets: concurrency, timeouts, failures and the maximum age of their responses."""

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
    """Fake targets by URL. The requests are recorded."""

    def __init__(self, **responses: Callable[[], VendordataResponse]) -> None:
        self.responses = responses
        self.requests: list[tuple[str, str]] = []

    def post(self, url: str, document: Mapping[str, Any]) -> VendordataResponse:
        self.requests.append((url, document["instance-id"]))
        return self.responses[url]()

    def vendors(self, **timeouts: Any) -> VendordataTargets:
        return VendordataTargets(
            [Target(name, name) for name in self.responses], self.post, VendordataTimeouts(**timeouts)
        )


def request_document(instance: str = "i1", **more: str) -> dict[str, Any]:
    return {"instance-id": instance} | more


def returns(content: Any, fresh_seconds: float = 0) -> Callable[[], VendordataResponse]:
    return lambda: VendordataResponse(content, 10, fresh_seconds)


def fails() -> VendordataResponse:
    raise PeerFailed("refused")


def test_all_targets_are_requested_concurrently() -> None:
    """Each target waits until the other has received its request."""
    barrier = threading.Barrier(2, timeout=HANG_SECONDS)

    def respond_together() -> VendordataResponse:
        barrier.wait()
        return VendordataResponse({"ok": True})

    found = asyncio.run(Targets(a=respond_together, b=respond_together).vendors().fetch(request_document()))
    assert found == {"a": {"ok": True}, "b": {"ok": True}}


def test_slow_target_does_not_delay_another_target() -> None:
    """More requests wait for the slow target than it has threads, and another target still responds."""
    gate = threading.Event()
    targets = Targets(slow=lambda: _respond_after(gate))
    fast = Targets(fast=returns(1))

    async def main() -> None:
        vendors, others = targets.vendors(seconds=HANG_SECONDS), fast.vendors()
        many = [asyncio.create_task(vendors.fetch(request_document(f"i{n}"))) for n in range(3 * THREADS_OF_A_TARGET)]
        await until_async(
            lambda: len(targets.requests) == THREADS_OF_A_TARGET, "every thread of the target has a request"
        )
        assert await others.fetch(request_document()) == {"fast": 1}
        assert not any(task.done() for task in many), "the fast target does not wait for the slow one"
        gate.set()
        await asyncio.gather(*many)

    asyncio.run(_with_gate_opened(main(), gate))


def _respond_after(gate: threading.Event) -> VendordataResponse:
    gate.wait(HANG_SECONDS)
    return VendordataResponse(None)


def test_request_to_a_slow_target_times_out() -> None:
    gate = threading.Event()
    targets = Targets(slow=lambda: _respond_after(gate))

    async def main() -> int:
        vendors = targets.vendors(seconds=0.2)
        many = [asyncio.create_task(vendors.fetch(request_document(f"i{n}"))) for n in range(3 * THREADS_OF_A_TARGET)]
        assert await asyncio.gather(*many) == [{"slow": {}}] * len(many)
        return len(targets.requests)

    with structlog.testing.capture_logs() as logs:
        request_count = asyncio.run(_with_gate_opened(main(), gate))
    assert request_count == THREADS_OF_A_TARGET  # the queued requests are cancelled
    assert [line["event"] for line in logs] == ["vendor data target failed"]


async def _with_gate_opened(main: Any, gate: threading.Event) -> Any:
    try:
        return await main
    finally:
        gate.set()


def test_equal_requests_share_one_call() -> None:
    gate = threading.Event()

    def respond_after_gate() -> VendordataResponse:
        gate.wait(HANG_SECONDS)
        return VendordataResponse(7)

    targets = Targets(a=respond_after_gate)

    async def main() -> list[Any]:
        vendors = targets.vendors()
        tasks = [asyncio.create_task(vendors.fetch(request_document())) for _ in range(5)]
        await until_async(lambda: targets.requests)
        tasks.pop().cancel()  # the guest has closed its connection, and the others still wait
        gate.set()
        return list(await asyncio.gather(*tasks))

    assert asyncio.run(main()) == [{"a": 7}] * 4
    assert len(targets.requests) == 1


async def test_response_is_cached_for_the_maximum_age_of_the_target() -> None:
    targets = Targets(cached=returns(1, 60), not_cached=returns(2))

    vendors = targets.vendors()
    for instance in ("i1", "i1", "i2"):
        assert await vendors.fetch(request_document(instance)) == {"cached": 1, "not_cached": 2}
    await vendors.fetch(request_document("i1", hostname="new"))  # the request differs
    assert [sent for sent in targets.requests if sent[0] == "cached"] == [
        ("cached", "i1"),
        ("cached", "i2"),
        ("cached", "i1"),
    ]
    assert len([sent for sent in targets.requests if sent[0] == "not_cached"]) == 4


def test_failure_is_not_cached_and_is_logged_once() -> None:
    remaining = [returns(3, 60), fails, fails]

    def respond() -> VendordataResponse:
        return remaining.pop()()

    targets = Targets(a=respond)

    async def main() -> list[Any]:
        vendors = targets.vendors()
        return [await vendors.fetch(request_document()) for _ in range(4)]

    with structlog.testing.capture_logs() as logs:
        assert asyncio.run(main()) == [{"a": {}}, {"a": {}}, {"a": 3}, {"a": 3}]
    assert [line["event"] for line in logs] == ["vendor data target failed", "vendor data target available again"]


def test_fatal_failure_is_a_503_error() -> None:
    vendors = Targets(a=returns(1), b=fails).vendors
    with pytest.raises(MetadataError) as raised:
        asyncio.run(vendors(failure_is_fatal=True).fetch(request_document()))
    assert raised.value.status == 503


def test_cache_limits_count_size_and_age_of_responses() -> None:
    now = [0.0]
    cache = VendordataCache(lambda: now[0], max_responses=2, max_bytes=100)
    for name in (b"a", b"b"):
        cache.put(name, VendordataResponse(name, 10, 5))
    assert cache.get(b"a")
    cache.put(b"c", VendordataResponse(b"c", 10, 5))
    assert (cache.get(b"b"), bool(cache.get(b"a")), bool(cache.get(b"c"))) == (None, True, True)
    cache.put(b"large", VendordataResponse(b"large", 95, 5))
    assert (cache.get(b"a"), cache.get(b"c"), bool(cache.get(b"large"))) == (None, None, True)
    now[0] = 5
    assert cache.get(b"large") is None
    cache.put(b"huge", VendordataResponse(b"huge", 101, 5))
    assert cache.get(b"huge") is None
