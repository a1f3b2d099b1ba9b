"""Neighbour probes of an address that another host has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from ipaddress import IPv6Address

import pytest
from tests.kernel.stage import Host
from tests.waiting import HANG_SECONDS, until

from openimds.linux.configure import neighbour_discovery
from openimds.linux.configure.neighbour_discovery import ND_NEIGHBOR_ADVERT, NeighbourProbe, NeighbourProbes
from openimds.linux.monitor.sockets import EventSockets
from openimds.linux.netns import netns
from openimds.linux.process.daemons import run
from openimds.netconfig.namespace_state import Bridge, Device, NamespaceState

pytestmark = pytest.mark.kernel

CONTESTED = "fe80::a9fe:a9fe"


@pytest.fixture
def prober(host: Host, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    """The device of the namespace `prober`. The namespace `other` on the same segment has the address."""
    monkeypatch.setattr(neighbour_discovery, "PROBE_INTERVAL_SECONDS", 0.0)
    monkeypatch.setattr(neighbour_discovery, "SECONDS_PER_PROBE", 0.0)
    bridge = Bridge(name=host.bridge(), mtu=1442)
    host.kernel.ensure_bridge(bridge)
    asking = Device(
        name=host.tap(1),
        host_name=host.tap(1),
        bridge=bridge.name,
        mac_address="fa:16:3e:00:00:01",
        mtu=1442,
        addresses=frozenset({"fe80::1/64"}),
    )
    having = replace(
        asking,
        name=host.tap(2),
        host_name=host.tap(2),
        mac_address="fa:16:3e:00:00:02",
        addresses=frozenset({f"{CONTESTED}/64"}),
    )
    for name, device in (("prober", asking), ("other", having)):
        host.kernel.apply(NamespaceState(name=host.namespace(name), devices=(device,)))
    until(lambda: not any("tentative" in _addresses(host, name) for name in ("prober", "other")))
    yield asking
    for name in ("prober", "other"):
        host.kernel.remove_namespace(host.namespace(name))


def _addresses(host: Host, name: str) -> str:
    return run(["ip", "-6", "addr"], namespace=host.namespace(name))


def test_probe_is_answered_until_the_other_host_drops_the_address(host: Host, prober: Device) -> None:
    namespace, sockets = host.namespace("prober"), EventSockets()
    with closing(sockets):
        probes = NeighbourProbes(sockets)
        probes.start(namespace, prober.name, CONTESTED)
        for _ in range(5):
            assert probes.step() == []
            for descriptor in sockets.wait(HANG_SECONDS):
                sockets.drain(descriptor)
        assert not probes.take_unanswered(namespace, prober.name)
        host.kernel.remove_namespace(host.namespace("other"))
        until(lambda: probes.step() == [namespace])
        assert probes.take_unanswered(namespace, prober.name)
        assert not probes.take_unanswered(namespace, prober.name)
        probes.stop(namespace, prober.name)


def test_advertisement_of_another_address_does_not_count(host: Host, prober: Device) -> None:
    probe = netns.run_in(host.namespace("prober"), lambda: NeighbourProbe(prober.name, "fe80::dead"))
    with closing(probe.socket):
        assert not probe.step(1.0, 1)
        probe.receive(bytes([ND_NEIGHBOR_ADVERT]) + bytes(7) + IPv6Address(CONTESTED).packed)
        assert probe.step(1.0, 1)
