from __future__ import annotations

from dataclasses import dataclass

import pytest

from openimds.agents.ipv6_metadata_address import Ipv6MetadataAddress
from openimds.agents.testing import FakeNetworkConfigurator
from openimds.netconfig.addresses import METADATA_IPV6_ON_DEVICE
from openimds.netconfig.namespace_state import Device, NamespaceState


@dataclass(frozen=True)
class Dad:
    is_duplicate: bool = False
    is_tentative: bool = False
    is_unanswered: bool = False


DEVICE = Device(
    name="tap0",
    host_name="tap0",
    bridge="brq0",
    mac_address="fa:16:3e:00:00:01",
    mtu=1500,
    addresses=frozenset({METADATA_IPV6_ON_DEVICE}),
)
STATE = NamespaceState(name="qdhcp-n", devices=(DEVICE,))


def test_duplicate_address_is_left_to_the_other_host_and_taken_over_later(capsys: pytest.CaptureFixture[str]) -> None:
    configurator = FakeNetworkConfigurator()
    address = Ipv6MetadataAddress(configurator)
    duplicate = []
    for dad in (
        Dad(is_tentative=True),
        Dad(is_duplicate=True),
        Dad(is_tentative=True),
        Dad(is_duplicate=True),
        Dad(),
    ):
        configurator.dad_states["qdhcp-n"] = dad
        assert address.check("n", STATE) == ()
        duplicate.append(bool(address.duplicates["n"]))
    assert duplicate == [False, True, True, True, False]
    log = capsys.readouterr().out
    assert log.count("address in use by another host") == log.count("address taken over") == 1


def test_pause_between_attempts_doubles_up_to_ten_minutes() -> None:
    configurator, now = FakeNetworkConfigurator(), 0.0
    address = Ipv6MetadataAddress(configurator, clock=lambda: now)
    configurator.dad_states["qdhcp-n"] = Dad(is_duplicate=True)
    tried_at = []
    for now in range(3000):
        before = len(configurator.dad_restarts)
        address.check("n", STATE)
        if len(configurator.dad_restarts) > before:
            tried_at.append(now)
    assert tried_at == [5, 15, 35, 75, 155, 315, 635, 1235, 1835, 2435]


def test_attempts_start_again_after_the_address_was_ours() -> None:
    configurator, now = FakeNetworkConfigurator(), 0.0
    address = Ipv6MetadataAddress(configurator, clock=lambda: now)
    for at, dad in (
        (0.0, Dad(is_duplicate=True)),
        (9.0, Dad()),
        (10.0, Dad(is_duplicate=True)),
        (14.0, Dad(is_duplicate=True)),
    ):
        now, configurator.dad_states["qdhcp-n"] = at, dad
        address.check("n", STATE)
    assert configurator.dad_restarts == []


def test_unanswered_duplicate_is_attempted_immediately() -> None:
    configurator = FakeNetworkConfigurator()
    address = Ipv6MetadataAddress(configurator, clock=lambda: 0.0)
    for is_unanswered, tried in ((False, 0), (True, 1), (False, 1), (True, 2)):
        configurator.dad_states["qdhcp-n"] = Dad(is_duplicate=True, is_unanswered=is_unanswered)
        address.check("n", STATE)
        assert len(configurator.dad_restarts) == tried


def test_namespace_without_the_address_is_skipped() -> None:
    configurator = FakeNetworkConfigurator()
    configurator.dad_states["qdhcp-n"] = Dad(is_duplicate=True)
    address = Ipv6MetadataAddress(configurator)
    address.check("n", NamespaceState(name="qdhcp-n"))
    assert address.duplicates == {"n": frozenset()}
    address.forget("n")
    assert address.duplicates == {}
