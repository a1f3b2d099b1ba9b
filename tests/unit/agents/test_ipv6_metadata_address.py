from __future__ import annotations

from dataclasses import dataclass

import pytest

from openimds.agents.ipv6_metadata_address import Ipv6MetadataAddress
from openimds.agents.testing import FakeNetworkConfigurator
from openimds.netconfig.addresses import METADATA_IPV6_ON_DEVICE
from openimds.netconfig.namespace_state import Device, NamespaceState


@dataclass(frozen=True)
class Found:
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


def test_left_to_the_other_and_taken_back(capsys: pytest.CaptureFixture[str]) -> None:
    kernel = FakeNetworkConfigurator()
    shared = Ipv6MetadataAddress(kernel)
    elsewhere = []
    for found in (
        Found(is_tentative=True),
        Found(is_duplicate=True),
        Found(is_tentative=True),
        Found(is_duplicate=True),
        Found(),
    ):
        kernel.dad_states["qdhcp-n"] = found
        assert shared.check("n", STATE) == ()
        elsewhere.append(bool(shared.elsewhere["n"]))
    assert elsewhere == [False, True, True, True, False]
    said = capsys.readouterr().out
    assert said.count("another host serves metadata") == said.count("served here again") == 1


def test_tries_to_take_it_back_become_rare() -> None:
    kernel, now = FakeNetworkConfigurator(), 0.0
    shared = Ipv6MetadataAddress(kernel, clock=lambda: now)
    kernel.dad_states["qdhcp-n"] = Found(is_duplicate=True)
    tried_at = []
    for now in range(3000):
        before = len(kernel.dad_restarts)
        shared.check("n", STATE)
        if len(kernel.dad_restarts) > before:
            tried_at.append(now)
    assert tried_at == [5, 15, 35, 75, 155, 315, 635, 1235, 1835, 2435]


def test_after_it_was_ours_the_tries_begin_anew() -> None:
    kernel, now = FakeNetworkConfigurator(), 0.0
    shared = Ipv6MetadataAddress(kernel, clock=lambda: now)
    for at, found in (
        (0.0, Found(is_duplicate=True)),
        (9.0, Found()),
        (10.0, Found(is_duplicate=True)),
        (14.0, Found(is_duplicate=True)),
    ):
        now, kernel.dad_states["qdhcp-n"] = at, found
        shared.check("n", STATE)
    assert kernel.dad_restarts == []


def test_one_that_nobody_answers_for_is_tried_at_once() -> None:
    kernel = FakeNetworkConfigurator()
    shared = Ipv6MetadataAddress(kernel, clock=lambda: 0.0)
    for is_unanswered, tried in ((False, 0), (True, 1), (False, 1), (True, 2)):
        kernel.dad_states["qdhcp-n"] = Found(is_duplicate=True, is_unanswered=is_unanswered)
        shared.check("n", STATE)
        assert len(kernel.dad_restarts) == tried


def test_a_namespace_without_the_address_is_not_looked_at() -> None:
    kernel = FakeNetworkConfigurator()
    kernel.dad_states["qdhcp-n"] = Found(is_duplicate=True)
    shared = Ipv6MetadataAddress(kernel)
    shared.check("n", NamespaceState(name="qdhcp-n"))
    assert shared.elsewhere == {"n": frozenset()}
    shared.forget("n")
    assert shared.elsewhere == {}
