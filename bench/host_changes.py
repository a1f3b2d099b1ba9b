"""Foreign changes of a host's networks, the duration of their repair, and the kernel's notifications meanwhile."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bench.host_networks import NETWORKS, STATE, Place
from openimds.linux.monitor.netlink_events import RTMGRP_ALL, RTMGRP_LINK
from openimds.linux.netlink.addresses import all_addresses
from openimds.linux.netlink.links import parse_link
from openimds.linux.netlink.socket import open_socket, parse_messages
from openimds.linux.netns import netns
from openimds.linux.process.daemons import run, terminate

REPAIRS_OF_A_KIND = 3
HEARD_BYTES = 8 << 20
SO_RCVBUFFORCE = 33


@dataclass(frozen=True)
class _Foreign:
    """A change of one network, and the check that it was repaired."""

    change: Callable[[Place], object]
    is_undone: Callable[[Place], bool]


def _on_bridge(place: Place) -> bool:
    with contextlib.suppress(Exception):
        return place.bridge in run(["ip", "-o", "link", "show", place.device])
    return False


def _has_address(place: Place) -> bool:
    with contextlib.suppress(Exception):
        return "192.168.40.2/24" in place.ip(f"-o addr show dev {place.device}") and _on_bridge(place)
    return False


REPAIRS = {
    "address deleted": _Foreign(lambda p: p.ip(f"addr del 192.168.40.2/24 dev {p.device}"), _has_address),
    "route deleted": _Foreign(lambda p: p.ip("route del default"), lambda p: "default" in p.ip("route")),
    "device switched off": _Foreign(
        lambda p: p.ip(f"link set {p.device} down"), lambda p: ",UP" in p.ip(f"-o link show {p.device}")
    ),
    "tap unplugged": _Foreign(lambda p: run(["ip", "link", "set", p.device, "nomaster"]), _on_bridge),
    "bridge deleted": _Foreign(lambda p: run(["ip", "link", "del", p.bridge]), _on_bridge),
    "file edited": _Foreign(
        lambda p: (p.folder / "host").write_text("#\n"), lambda p: (p.folder / "host").read_text() != "#\n"
    ),
    "dnsmasq killed": _Foreign(lambda p: terminate(p.pid(), grace_seconds=0), lambda p: p.pid() != 0),
    "namespace deleted": _Foreign(
        lambda p: run(["ip", "netns", "del", p.namespace]), lambda p: _has_address(p) and p.pid() != 0
    ),
}


def repairs(kind: _Foreign) -> Iterator[float]:
    """Yields the seconds of each repair, in networks that are far apart."""
    for number in range(REPAIRS_OF_A_KIND):
        place = Place((number * 2 + 1) * NETWORKS // (REPAIRS_OF_A_KIND * 2))
        began = time.perf_counter()
        kind.change(place)
        until(lambda place=place: kind.is_undone(place), 60)  # type: ignore[misc]
        yield time.perf_counter() - began


@contextmanager
def all_notifications() -> Iterator[Callable[[], int]]:
    """Counts the notifications since the beginning of the block, in all namespaces and about their devices on the host."""
    places = [Place(number) for number in range(NETWORKS)]
    names = {name for place in places for name in (place.device, place.bridge)}
    host = open_socket(groups=RTMGRP_LINK)
    host.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, HEARD_BYTES)
    inside = [netns.run_in(place.namespace, lambda: open_socket(groups=RTMGRP_ALL)) for place in places]

    def count() -> int:
        on_host = sum(
            1 for data in _waiting(host) for _kind, _flags, one in parse_messages(data) if _name(one) in names
        )
        return on_host + sum(1 for listening in inside for _data in _waiting(listening))

    try:
        yield count
    finally:
        for listening in (host, *inside):
            listening.close()


def _name(message: bytes) -> str:
    return parse_link(message).name


def _waiting(listening: socket.socket) -> Iterator[bytes]:
    with contextlib.suppress(BlockingIOError):
        while data := listening.recv(1 << 16, socket.MSG_DONTWAIT):
            yield data


def until(reached: Callable[[], bool], seconds: float) -> None:
    """Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not reached within {seconds:g} s; the agents' logs are in {STATE}")
        time.sleep(0.002)


def wait_until_settled() -> None:
    """Waits until duplicate address detection has finished on every segment; the kernel sends a notification for each."""
    for number in range(NETWORKS):
        until(lambda number=number: not _is_settling(Place(number)), 60)  # type: ignore[misc]


def _is_settling(place: Place) -> bool:
    found = netns.run_in(place.namespace, all_addresses)
    return any(address.tentative and not address.duplicate for address in found)
