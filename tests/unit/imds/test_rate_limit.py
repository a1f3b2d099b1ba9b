from __future__ import annotations

import pytest

from openimds.guest_identity.token_bucket import RateWindow
from openimds.imds import rate_limit
from openimds.imds.rate_limit import RateLimit, UnknownClientLimiter

NETWORK, MAC = "network:n1", "fa:16:3e:00:00:0a"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def rate(*ip_versions: int) -> RateLimit:
    return RateLimit(windows=(RateWindow(3, 30), RateWindow(2, 4)), ip_versions=frozenset(ip_versions or (4, 6)))


def test_who_is_refused_too_often_waits_and_is_heard_again() -> None:
    clock = Clock()
    counted = UnknownClientLimiter(rate(), clock)
    for _ in range(2):
        counted.count(NETWORK, MAC, "10.0.0.5")
        assert counted.wait_seconds(NETWORK, MAC, "10.0.0.5") == 0
    counted.count(NETWORK, MAC, "fe80::5")  # of the same guest
    assert counted.wait_seconds(NETWORK, MAC, "10.0.0.5") == 2
    assert counted.wait_seconds("network:n2", MAC, "10.0.0.5") == 0
    assert counted.wait_seconds(NETWORK, "fa:16:3e:00:00:0b", "10.0.0.5") == 0
    clock.now += 1.5
    assert counted.wait_seconds(NETWORK, MAC, "10.0.0.5") == 1  # whole seconds, and never too few
    clock.now += 0.5
    assert counted.wait_seconds(NETWORK, MAC, "10.0.0.5") == 0
    counted.count(NETWORK, MAC, "10.0.0.5")
    counted.count(NETWORK, MAC, "10.0.0.5")
    assert counted.wait_seconds(NETWORK, MAC, "10.0.0.5") > 0


def test_requests_of_another_ip_version_are_not_counted() -> None:
    counted = UnknownClientLimiter(rate(4), Clock())
    for _ in range(50):
        counted.count(NETWORK, MAC, "fe80::5")
    assert counted.wait_seconds(NETWORK, MAC, "10.0.0.5") == 0


def test_who_has_no_address_is_not_counted() -> None:
    """Reset before it was accepted."""
    counted = UnknownClientLimiter(rate(), Clock())
    for listener in (NETWORK, "router:r1"):
        for _ in range(50):
            counted.count(listener, MAC, "")
        assert counted.wait_seconds(listener, MAC, "") == 0
        assert counted.wait_seconds(listener, MAC, "10.0.0.5") == 0


def test_many_strangers_take_no_more_memory(monkeypatch) -> None:
    monkeypatch.setattr(rate_limit, "MAX_UNKNOWN_CLIENTS", 10)
    counted = UnknownClientLimiter(rate(), Clock())
    for number in range(100):
        for _ in range(3):
            counted.count(NETWORK, f"mac {number}", "10.0.0.5")
        assert counted.wait_seconds(NETWORK, f"mac {number}", "10.0.0.5") > 0
    waiting = [number for number in range(100) if counted.wait_seconds(NETWORK, f"mac {number}", "10.0.0.5")]
    assert waiting == list(range(90, 100))
    counted.reset(frozenset(f"mac {number}" for number in range(100)))
    assert not any(vars(counted)[table] for table in ("_clients", "_by_reset_key"))


ROUTER = "router:r1"


@pytest.mark.parametrize(
    ("other", "is_same"),
    [("10.0.0.6", False), ("fd00::1", False), ("fd00:0:0:1::9", False), ("fe80::1%qr-b", False), ("10.0.0.5", True)],
)
def test_behind_a_router_somebody_elses_network_may_have_the_same_mac(other: str, is_same: bool) -> None:
    counted = UnknownClientLimiter(rate(), Clock())
    for _ in range(3):
        counted.count(ROUTER, MAC, "10.0.0.5")
    assert bool(counted.wait_seconds(ROUTER, MAC, other)) == is_same


@pytest.mark.parametrize(("one", "other"), [("fd00::1", "fd00::2"), ("fe80::1%qr-a", "fe80::2%qr-a")])
def test_another_address_of_its_own_choice_helps_nobody(one: str, other: str) -> None:
    counted = UnknownClientLimiter(rate(), Clock())
    for _ in range(3):
        counted.count(ROUTER, MAC, one)
    assert counted.wait_seconds(ROUTER, MAC, other) > 0


@pytest.mark.parametrize(
    ("listener", "touched", "begins_anew"),
    [
        (NETWORK, {MAC, "other"}, True),
        (NETWORK, {"n1"}, False),
        (NETWORK, {"other"}, False),
        (ROUTER, {MAC}, True),
        (ROUTER, {"r1"}, True),
        (ROUTER, {"r2"}, False),
    ],
)
def test_whom_news_concern_begins_anew(listener: str, touched: set[str], begins_anew: bool) -> None:
    counted = UnknownClientLimiter(rate(), Clock())
    for _ in range(3):
        counted.count(listener, MAC, "10.0.0.5")
    counted.reset(touched)
    assert bool(counted.wait_seconds(listener, MAC, "10.0.0.5")) != begins_anew
