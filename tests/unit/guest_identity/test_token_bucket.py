"""How often a port may ask."""

from __future__ import annotations

from openimds.guest_identity.token_bucket import RateWindow, TokenBucket

WINDOWS = (RateWindow(240, 60), RateWindow(60, 10))
BOOT = 28


def test_a_boot_passes_and_a_flood_does_not() -> None:
    bucket = TokenBucket(WINDOWS, now=0)
    assert all(bucket.take(0) for _ in range(BOOT))
    assert sum(bucket.take(0) for _ in range(100)) == 60 - BOOT


def test_each_window_limits() -> None:
    bucket = TokenBucket((RateWindow(5, 60), RateWindow(2, 1)), now=0)
    assert [bucket.take(0) for _ in range(3)] == [True, True, False]
    assert [bucket.take(1) for _ in range(3)] == [True, True, False]
    assert [bucket.take(2) for _ in range(3)] == [True, False, False]  # five in the long window


def test_tokens_come_back_and_no_more_than_there_were() -> None:
    bucket = TokenBucket((RateWindow(2, 10),), now=0)
    assert [bucket.take(0) for _ in range(3)] == [True, True, False]
    assert bucket.retry_after_seconds == 5
    assert [bucket.take(4.9), bucket.take(5), bucket.take(5)] == [False, True, False]
    assert [bucket.take(1000) for _ in range(3)] == [True, True, False]


def test_refused_requests_cost_nothing() -> None:
    bucket = TokenBucket((RateWindow(1, 1),), now=0)
    assert bucket.take(0)
    assert not any(bucket.take(0.5) for _ in range(50))
    assert bucket.take(1)


def test_a_clock_that_stands_still_or_goes_back_gives_nothing() -> None:
    bucket = TokenBucket((RateWindow(1, 1),), now=10)
    assert bucket.take(10)
    assert not bucket.take(9)
    assert not bucket.take(10)
