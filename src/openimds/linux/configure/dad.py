"""IPv6 addresses that duplicate address detection (RFC 4862, 5.4) has found to be somebody else's.

The kernel keeps such an address, marked `tentative dadfailed`, and never looks again by itself.

An IPv6 address that another host has: asked for now and then, so that its giving it up is noticed.

Duplicate address detection itself would be heard by the whole segment and is told of in the kernel's log each time. An
ordinary neighbour solicitation (RFC 4861, 4.3) is answered to the asker alone, and the kernel, which knows already that
the address is somebody else's, does nothing about the answer. Only when there is none is detection begun again.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import time
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_interface
from random import SystemRandom

from openimds.linux.monitor.sockets import EventSocket, EventSockets
from openimds.linux.netlink.addresses import add_address, delete_address
from openimds.linux.netlink.links import link_by_name
from openimds.linux.netns import netns
from openimds.linux.netns.handles import NamespaceHandle


@dataclass(frozen=True, slots=True)
class DadState:
    """What is known of an address by now. Neither flag: it is ours."""

    is_duplicate: bool
    is_tentative: bool
    is_unanswered: bool = False
    """It failed, but by now nobody answers for the address."""


def dad_state(handle: NamespaceHandle, device: str, interface: str) -> DadState | None:
    """`interface`: `fe80::a9fe:a9fe/64`. None: it is not there. Raises OSError."""
    address = str(ip_interface(interface).ip)
    index = next((link.index for link in handle.links() if link.name == device), None)
    for found in handle.addresses():
        if found.link_index == index and found.interface.partition("/")[0] == address:
            return DadState(found.duplicate, found.tentative and not found.duplicate)
    return None


def restart_dad(namespace: str, device: str, interface: str) -> None:
    """Take the address away and set it anew: while it is looked for, nothing is answered for it.

    Raises OSError, NamespaceMissingError.
    """

    def work() -> None:
        link = link_by_name(device)
        if link is not None:
            delete_address(link.index, interface)
            add_address(link.index, interface, detect_duplicates=True)

    netns.run_in(namespace, work)


PROBE_INTERVAL_SECONDS = 10.0
SECONDS_PER_PROBE = 0.02
"""With many, each is asked for more rarely: an answer is work for this host and the other."""
ND_NEIGHBOR_SOLICIT, ND_NEIGHBOR_ADVERT = 135, 136
ICMP6_FILTER, FILTER_WORDS = 1, 8
ND_OPT_SOURCE_LINKADDR = 1
SO_BINDTODEVICE = 25
NO_DEVICE_ERRNOS = frozenset({errno.ENODEV, errno.ENXIO})
ND_HOP_LIMIT = 255
"""RFC 4861, 7.1: it came from no farther than this link."""

_random = SystemRandom()
"""Two hosts that ask in the same moment would both find nobody, again and again."""


class NeighbourProbe:
    """To be made by a thread in the namespace. Raises OSError."""

    def __init__(self, device: str, address: str) -> None:
        link = link_by_name(device)
        if link is None:
            raise OSError(f"there is no device {device}")
        self._target = IPv6Address(address).packed
        self._group = (str(IPv6Address(b"\xff\x02" + bytes(9) + b"\x01\xff" + self._target[-3:])), 0, 0, link.index)
        self._question = _solicitation(self._target, link.mac_address)
        self._is_waiting = self._is_answered = False
        self.has_device = True
        """False: it is gone; one of the same name is another."""
        self._next = 0.0
        self.conversation = _open_icmpv6_socket(device, link.index)

    def hear(self, datagram: bytes) -> tuple[()]:
        """Of all that is advertised on the link. It calls for no look."""
        if datagram[:1] == bytes([ND_NEIGHBOR_ADVERT]) and datagram[8:24] == self._target:
            self._is_answered = True
        return ()

    def step(self, now: float, contests: int) -> bool:
        """Asks when it is time to; whether the question of the step before has found nobody. `now`: time.monotonic."""
        was_waiting, self._is_waiting = self._is_waiting, False
        if was_waiting and not self._is_answered:
            return True
        if now >= self._next:
            self._next = now + max(PROBE_INTERVAL_SECONDS, contests * SECONDS_PER_PROBE) * _random.uniform(0.8, 1.2)
            self._ask()
        return False

    def _ask(self) -> None:
        self._is_answered = False
        try:
            self.conversation.sendto(self._question, self._group)
        except OSError as error:  # the device is down, or has no address to ask from
            self.has_device = error.errno not in NO_DEVICE_ERRNOS
            return
        self._is_waiting = True


ProbeKey = tuple[str, str]
"""Namespace and device."""


class NeighbourProbes:
    """All of a host. Not for two threads at once."""

    def __init__(self, sockets: EventSockets) -> None:
        self._sockets = sockets
        self._asked: dict[ProbeKey, tuple[int, NeighbourProbe]] = {}
        """The descriptor, and what is asked by it."""
        self._silent: set[ProbeKey] = set()

    def begin(self, namespace: str, device: str, address: str) -> None:
        """Unless it has begun. Where nobody can be asked nothing happens."""
        if (namespace, device) not in self._asked:
            with contextlib.suppress(netns.NamespaceMissingError, OSError):
                contest = netns.run_in(namespace, lambda: NeighbourProbe(device, address))
                descriptor = self._sockets.add(EventSocket(contest.conversation, contest.hear))
                self._asked[namespace, device] = (descriptor, contest)

    def take_silence(self, namespace: str, device: str) -> bool:
        """Whether nobody has answered since this was asked last."""
        is_silent = (namespace, device) in self._silent
        self._silent.discard((namespace, device))
        return is_silent

    def end(self, namespace: str, device: str) -> None:
        """Idempotent."""
        self._silent.discard((namespace, device))
        descriptor, _contest = self._asked.pop((namespace, device), (None, None))
        if descriptor is not None:
            self._sockets.remove(descriptor)

    def end_in(self, namespace: str) -> None:
        for at in {at for at in (*self._asked, *self._silent) if at[0] == namespace}:
            self.end(*at)

    def step(self) -> list[str]:
        """Asks for all whose time it is. The namespaces to look at: of those that have found nobody, or lost the device."""
        found = []
        for at, (_descriptor, contest) in list(self._asked.items()):
            if contest.step(time.monotonic(), len(self._asked)):
                self._silent.add(at)
                found.append(at[0])
            elif not contest.has_device:
                self.end(*at)
                found.append(at[0])
        return found


def _open_icmpv6_socket(device: str, index: int) -> socket.socket:
    conversation = socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_ICMPV6)
    try:
        conversation.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, device.encode() + b"\0")
        conversation.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        conversation.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, ND_HOP_LIMIT)
        conversation.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
        blocked = [0xFFFFFFFF] * FILTER_WORDS
        blocked[ND_NEIGHBOR_ADVERT >> 5] &= ~(1 << (ND_NEIGHBOR_ADVERT & 31))
        conversation.setsockopt(socket.IPPROTO_ICMPV6, ICMP6_FILTER, struct.pack(f"={FILTER_WORDS}I", *blocked))
    except OSError:
        conversation.close()
        raise
    return conversation


def _solicitation(target: bytes, mac_address: str) -> bytes:
    """The kernel puts the checksum in."""
    own = bytes.fromhex(mac_address.replace(":", ""))
    return struct.pack("!BBHI", ND_NEIGHBOR_SOLICIT, 0, 0, 0) + target + bytes([ND_OPT_SOURCE_LINKADDR, 1]) + own
