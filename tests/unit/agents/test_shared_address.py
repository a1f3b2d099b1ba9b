from __future__ import annotations

from dataclasses import dataclass

import pytest

from openimds.agents.fakes import FakeKernel
from openimds.agents.shared_address import SharedAddress
from openimds.wiring.addresses import METADATA_IPV6_ON_DEVICE
from openimds.wiring.state import Device, NamespaceState


@dataclass(frozen=True)
class Found:
    failed: bool = False
    under_way: bool = False


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
    kernel = FakeKernel()
    shared = SharedAddress(kernel)
    elsewhere = []
    for found in (Found(under_way=True), Found(failed=True), Found(under_way=True), Found(failed=True), Found()):
        kernel.detected["qdhcp-n"] = found
        assert shared.look("n", STATE) == ()
        elsewhere.append(bool(shared.elsewhere["n"]))
    assert elsewhere == [False, True, True, True, False]
    assert kernel.detections == ["qdhcp-n", "qdhcp-n"]
    said = capsys.readouterr().out
    assert said.count("another host serves metadata") == said.count("served here again") == 1


def test_a_namespace_without_the_address_is_not_looked_at() -> None:
    kernel = FakeKernel()
    kernel.detected["qdhcp-n"] = Found(failed=True)
    shared = SharedAddress(kernel)
    shared.look("n", NamespaceState(name="qdhcp-n"))
    assert shared.elsewhere == {"n": frozenset()}
    shared.forget("n")
    assert shared.elsewhere == {}
