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


def test_rejected_client_waits_and_is_served_again() -> None:
    clock = Clock()
    limiter = UnknownClientLimiter(rate(), clock)
    for _ in range(2):
        limiter.count(NETWORK, MAC, "10.0.0.5")
        assert limiter.wait_seconds(NETWORK, MAC, "10.0.0.5") == 0
    limiter.count(NETWORK, MAC, "fe80::5")  # another address of the same guest
    assert limiter.wait_seconds(NETWORK, MAC, "10.0.0.5") == 2
    assert limiter.wait_seconds("network:n2", MAC, "10.0.0.5") == 0
    assert limiter.wait_seconds(NETWORK, "fa:16:3e:00:00:0b", "10.0.0.5") == 0
    clock.now += 1.5
    assert limiter.wait_seconds(NETWORK, MAC, "10.0.0.5") == 1  # the wait is rounded up to whole seconds
    clock.now += 0.5
    assert limiter.wait_seconds(NETWORK, MAC, "10.0.0.5") == 0
    limiter.count(NETWORK, MAC, "10.0.0.5")
    limiter.count(NETWORK, MAC, "10.0.0.5")
    assert limiter.wait_seconds(NETWORK, MAC, "10.0.0.5") > 0


def test_requests_of_another_ip_version_are_not_counted() -> None:
    limiter = UnknownClientLimiter(rate(4), Clock())
    for _ in range(50):
        limiter.count(NETWORK, MAC, "fe80::5")
    assert limiter.wait_seconds(NETWORK, MAC, "10.0.0.5") == 0


def test_client_without_an_address_is_not_counted() -> None:
    """A connection that is reset before accept() has no peer address."""
    limiter = UnknownClientLimiter(rate(), Clock())
    for listener in (NETWORK, "router:r1"):
        for _ in range(50):
            limiter.count(listener, MAC, "")
        assert limiter.wait_seconds(listener, MAC, "") == 0
        assert limiter.wait_seconds(listener, MAC, "10.0.0.5") == 0


def test_memory_for_unknown_clients_is_limited(monkeypatch) -> None:
    monkeypatch.setattr(rate_limit, "MAX_UNKNOWN_CLIENTS", 10)
    limiter = UnknownClientLimiter(rate(), Clock())
    for number in range(100):
        for _ in range(3):
            limiter.count(NETWORK, f"mac {number}", "10.0.0.5")
        assert limiter.wait_seconds(NETWORK, f"mac {number}", "10.0.0.5") > 0
    waiting = [number for number in range(100) if limiter.wait_seconds(NETWORK, f"mac {number}", "10.0.0.5")]
    assert waiting == list(range(90, 100))
    limiter.reset(frozenset(f"mac {number}" for number in range(100)))
    assert not any(vars(limiter)[table] for table in ("_clients", "_by_reset_key"))


ROUTER = "router:r1"


@pytest.mark.parametrize(
    ("other", "is_same"),
    [("10.0.0.6", False), ("fd00::1", False), ("fd00:0:0:1::9", False), ("fe80::1%qr-b", False), ("10.0.0.5", True)],
)
def test_equal_macs_behind_a_router_are_counted_by_address(other: str, is_same: bool) -> None:
    limiter = UnknownClientLimiter(rate(), Clock())
    for _ in range(3):
        limiter.count(ROUTER, MAC, "10.0.0.5")
    assert bool(limiter.wait_seconds(ROUTER, MAC, other)) == is_same


@pytest.mark.parametrize(("first", "second"), [("fd00::1", "fd00::2"), ("fe80::1%qr-a", "fe80::2%qr-a")])
def test_ipv6_addresses_of_one_guest_are_counted_together(first: str, second: str) -> None:
    limiter = UnknownClientLimiter(rate(), Clock())
    for _ in range(3):
        limiter.count(ROUTER, MAC, first)
    assert limiter.wait_seconds(ROUTER, MAC, second) > 0


@pytest.mark.parametrize(
    ("listener", "changed_ids", "is_reset"),
    [
        (NETWORK, {MAC, "other"}, True),
        (NETWORK, {"n1"}, False),
        (NETWORK, {"other"}, False),
        (ROUTER, {MAC}, True),
        (ROUTER, {"r1"}, True),
        (ROUTER, {"r2"}, False),
    ],
)
def test_change_of_a_port_or_router_resets_its_counts(listener: str, changed_ids: set[str], is_reset: bool) -> None:
    limiter = UnknownClientLimiter(rate(), Clock())
    for _ in range(3):
        limiter.count(listener, MAC, "10.0.0.5")
    limiter.reset(changed_ids)
    assert bool(limiter.wait_seconds(listener, MAC, "10.0.0.5")) != is_reset
