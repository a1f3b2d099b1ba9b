from __future__ import annotations

from openimds.identity.bucket import Window
from openimds.web.guest import strangers
from openimds.web.guest.rates import Rate
from openimds.web.guest.strangers import Strangers

NETWORK, MAC = "network:n1", "fa:16:3e:00:00:0a"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def rate(*ip_versions: int) -> Rate:
    return Rate(windows=(Window(3, 30), Window(2, 4)), ip_versions=frozenset(ip_versions or (4, 6)))


def test_who_is_refused_too_often_waits_and_is_heard_again() -> None:
    clock = Clock()
    counted = Strangers(rate(), clock)
    for _ in range(2):
        counted.refused(NETWORK, MAC, "10.0.0.5")
        assert counted.wait_seconds(NETWORK, MAC) == 0
    counted.refused(NETWORK, MAC, "fe80::5")  # of the same guest
    assert counted.wait_seconds(NETWORK, MAC) == 2
    assert counted.wait_seconds("network:n2", MAC) == 0
    assert counted.wait_seconds(NETWORK, "fa:16:3e:00:00:0b") == 0
    clock.now += 2
    assert counted.wait_seconds(NETWORK, MAC) == 0
    counted.refused(NETWORK, MAC, "10.0.0.5")
    counted.refused(NETWORK, MAC, "10.0.0.5")
    assert counted.wait_seconds(NETWORK, MAC) > 0


def test_without_limits_or_of_another_ip_version_nobody_waits() -> None:
    for counted, address in ((Strangers(None, Clock()), "10.0.0.5"), (Strangers(rate(4), Clock()), "fe80::5")):
        for _ in range(50):
            counted.refused(NETWORK, MAC, address)
        assert counted.wait_seconds(NETWORK, MAC) == 0


def test_many_strangers_take_no_more_memory(monkeypatch) -> None:
    monkeypatch.setattr(strangers, "MAX_STRANGERS", 10)
    counted = Strangers(rate(), Clock())
    for number in range(100):
        for _ in range(3):
            counted.refused(NETWORK, f"mac {number}", "10.0.0.5")
        assert counted.wait_seconds(NETWORK, f"mac {number}") > 0
    waiting = [number for number in range(100) if counted.wait_seconds(NETWORK, f"mac {number}")]
    assert waiting == list(range(90, 100))
