"""The rate limit of a port."""

from __future__ import annotations

from openimds.guest_identity.token_bucket import RateWindow, TokenBucket

WINDOWS = (RateWindow(240, 60), RateWindow(60, 10))
BOOT = 28


def test_the_requests_of_a_boot_are_accepted_and_a_flood_is_limited() -> None:
    bucket = TokenBucket(WINDOWS, now=0)
    assert all(bucket.take(0) for _ in range(BOOT))
    assert sum(bucket.take(0) for _ in range(100)) == 60 - BOOT


def test_the_limits_of_all_windows_apply() -> None:
    bucket = TokenBucket((RateWindow(5, 60), RateWindow(2, 1)), now=0)
    assert [bucket.take(0) for _ in range(3)] == [True, True, False]
    assert [bucket.take(1) for _ in range(3)] == [True, True, False]
    assert [bucket.take(2) for _ in range(3)] == [True, False, False]  # the long window has five requests


def test_tokens_are_refilled_up_to_the_limit() -> None:
    bucket = TokenBucket((RateWindow(2, 10),), now=0)
    assert [bucket.take(0) for _ in range(3)] == [True, True, False]
    assert bucket.retry_after_seconds == 5
    assert [bucket.take(4.9), bucket.take(5), bucket.take(5)] == [False, True, False]
    assert [bucket.take(1000) for _ in range(3)] == [True, True, False]


def test_rejected_requests_take_no_tokens() -> None:
    bucket = TokenBucket((RateWindow(1, 1),), now=0)
    assert bucket.take(0)
    assert not any(bucket.take(0.5) for _ in range(50))
    assert bucket.take(1)


def test_a_clock_that_stops_or_goes_back_adds_no_tokens() -> None:
    bucket = TokenBucket((RateWindow(1, 1),), now=10)
    assert bucket.take(10)
    assert not bucket.take(9)
    assert not bucket.take(10)
