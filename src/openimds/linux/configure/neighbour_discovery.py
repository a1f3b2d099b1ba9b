"""Address announcements and conflicts on a link: gratuitous ARP, duplicate address detection, neighbour probes.

If duplicate address detection (DAD: RFC 4862, 5.4) finds an IPv6 address on another host, the kernel keeps the address
marked `tentative dadfailed` and never tries again. The other host is therefore probed periodically. DAD itself would be
received by the whole segment and be logged by the kernel each time. An ordinary neighbour solicitation (RFC 4861, 4.3)
is answered to its sender alone, and the kernel ignores the answer, because the address is a known duplicate. DAD is
restarted only when there is no answer.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import time
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_interface
from random import SystemRandom

from openimds.linux.monitor.sockets import EventSocket, EventSockets
from openimds.linux.netlink.addresses import add_address, delete_address
from openimds.linux.netlink.links import link_by_name
from openimds.linux.netns import netns
from openimds.linux.netns.handles import NamespaceHandle

ETHERNET_ARP = 0x0806
BROADCAST = b"\xff" * 6
ARP_REQUEST, ARP_REPLY = 1, 2
"""Both operations are sent, because some systems update their ARP cache on one of them only."""


def announce(namespace: str, device: str, address: str) -> None:
    """Announces that an IPv4 address is at this device (gratuitous ARP: RFC 5227, 3), without waiting.

    Raises OSError (the device is down or does not exist) and NamespaceMissingError.
    """
    netns.run_in(namespace, lambda: _send_arp(device, IPv4Address(address).packed))


def _send_arp(device: str, address: bytes) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC) as link:
        link.bind((device, ETHERNET_ARP))
        own_mac: bytes = link.getsockname()[4]
        for operation in (ARP_REQUEST, ARP_REPLY):
            link.send(arp_frame(operation, own_mac, address))


def arp_frame(operation: int, mac: bytes, address: bytes) -> bytes:
    """A broadcast Ethernet frame in which `mac` announces `address`."""
    ethernet = BROADCAST + mac + struct.pack("!H", ETHERNET_ARP)
    kinds = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
    return ethernet + kinds + mac + address + BROADCAST + address


@dataclass(frozen=True, slots=True)
class DadState:
    """The state of duplicate address detection. If no flag is set, the address is usable."""

    is_duplicate: bool
    is_tentative: bool
    is_unanswered: bool = False
    """Whether the address was a duplicate, and the other host no longer answers neighbour solicitations for it."""


def dad_state(handle: NamespaceHandle, device: str, interface: str) -> DadState | None:
    """The state of an address (`fe80::a9fe:a9fe/64`), or None if the device does not have it. Raises OSError."""
    address = str(ip_interface(interface).ip)
    index = next((link.index for link in handle.links() if link.name == device), None)
    for found in handle.addresses():
        if found.link_index == index and found.interface.partition("/")[0] == address:
            return DadState(found.duplicate, found.tentative and not found.duplicate)
    return None


def restart_dad(namespace: str, device: str, interface: str) -> None:
    """Removes an address and adds it again with duplicate address detection.

    The kernel does not use the address until the detection has finished. Raises OSError, NamespaceMissingError.
    """

    def work() -> None:
        link = link_by_name(device)
        if link is not None:
            delete_address(link.index, interface)
            add_address(link.index, interface, detect_duplicates=True)

    netns.run_in(namespace, work)


PROBE_INTERVAL_SECONDS = 10.0
SECONDS_PER_PROBE = 0.02
"""With many probes the interval grows, because each answer is work for this host and the other one."""
ND_NEIGHBOR_SOLICIT, ND_NEIGHBOR_ADVERT = 135, 136
ICMP6_FILTER, FILTER_WORDS = 1, 8
ND_OPT_SOURCE_LINKADDR = 1
SO_BINDTODEVICE = 25
NO_DEVICE_ERRNOS = frozenset({errno.ENODEV, errno.ENXIO})
ND_HOP_LIMIT = 255
"""RFC 4861, 7.1: a packet with this hop limit was sent on the same link."""

_random = SystemRandom()
"""Randomizes the intervals. Two hosts that probe in step would both find no other host, again and again."""


class NeighbourProbe:
    """Solicits one IPv6 address on one device. Must be created in the namespace. Raises OSError."""

    def __init__(self, device: str, address: str) -> None:
        link = link_by_name(device)
        if link is None:
            raise OSError(f"device {device} does not exist")
        self._target = IPv6Address(address).packed
        self._group = (str(IPv6Address(b"\xff\x02" + bytes(9) + b"\x01\xff" + self._target[-3:])), 0, 0, link.index)
        self._request = _solicitation(self._target, link.mac_address)
        self._is_waiting = self._is_answered = False
        self.has_device = True
        """False after the device was deleted. A new device of the same name is another one."""
        self._next = 0.0
        self.socket = _open_icmpv6_socket(device, link.index)

    def receive(self, datagram: bytes) -> tuple[()]:
        """Handles a neighbour advertisement. Returns no watch keys, because a reply requires no reconcile pass."""
        if datagram[:1] == bytes([ND_NEIGHBOR_ADVERT]) and datagram[8:24] == self._target:
            self._is_answered = True
        return ()

    def step(self, now: float, probe_count: int) -> bool:
        """Sends a solicitation if one is due. Returns True if the previous one was not answered.

        `now` is time.monotonic().
        """
        was_waiting, self._is_waiting = self._is_waiting, False
        if was_waiting and not self._is_answered:
            return True
        if now >= self._next:
            self._next = now + max(PROBE_INTERVAL_SECONDS, probe_count * SECONDS_PER_PROBE) * _random.uniform(0.8, 1.2)
            self._send()
        return False

    def _send(self) -> None:
        self._is_answered = False
        try:
            self.socket.sendto(self._request, self._group)
        except OSError as error:  # the device is down, gone, or without a source address
            self.has_device = error.errno not in NO_DEVICE_ERRNOS
            return
        self._is_waiting = True


ProbeKey = tuple[str, str]
"""Namespace and device."""


class NeighbourProbes:
    """The probes of a host. Not thread-safe."""

    def __init__(self, sockets: EventSockets) -> None:
        self._sockets = sockets
        self._probes: dict[ProbeKey, tuple[int, NeighbourProbe]] = {}
        """The running probes, each with the descriptor of its socket."""
        self._unanswered: set[ProbeKey] = set()

    def start(self, namespace: str, device: str, address: str) -> None:
        """Starts a probe unless it runs already. Does nothing if the namespace or device does not exist."""
        if (namespace, device) not in self._probes:
            with contextlib.suppress(netns.NamespaceMissingError, OSError):
                probe = netns.run_in(namespace, lambda: NeighbourProbe(device, address))
                descriptor = self._sockets.add(EventSocket(probe.socket, probe.receive))
                self._probes[namespace, device] = (descriptor, probe)

    def take_unanswered(self, namespace: str, device: str) -> bool:
        """True if a solicitation was not answered since the last call."""
        is_unanswered = (namespace, device) in self._unanswered
        self._unanswered.discard((namespace, device))
        return is_unanswered

    def stop(self, namespace: str, device: str) -> None:
        """Stops a probe. Idempotent."""
        self._unanswered.discard((namespace, device))
        descriptor, _probe = self._probes.pop((namespace, device), (None, None))
        if descriptor is not None:
            self._sockets.remove(descriptor)

    def stop_all_in(self, namespace: str) -> None:
        for key in {key for key in (*self._probes, *self._unanswered) if key[0] == namespace}:
            self.stop(*key)

    def step(self) -> list[str]:
        """Sends the solicitations that are due. Returns the namespaces to reconcile.

        These are the namespaces in which a solicitation was not answered or a device was deleted.
        """
        namespaces = []
        for key, (_descriptor, probe) in list(self._probes.items()):
            if probe.step(time.monotonic(), len(self._probes)):
                self._unanswered.add(key)
                namespaces.append(key[0])
            elif not probe.has_device:
                self.stop(*key)
                namespaces.append(key[0])
        return namespaces


def _open_icmpv6_socket(device: str, index: int) -> socket.socket:
    icmpv6 = socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_ICMPV6)
    try:
        icmpv6.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, device.encode() + b"\0")
        icmpv6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        icmpv6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, ND_HOP_LIMIT)
        icmpv6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
        blocked = [0xFFFFFFFF] * FILTER_WORDS
        blocked[ND_NEIGHBOR_ADVERT >> 5] &= ~(1 << (ND_NEIGHBOR_ADVERT & 31))
        icmpv6.setsockopt(socket.IPPROTO_ICMPV6, ICMP6_FILTER, struct.pack(f"={FILTER_WORDS}I", *blocked))
    except OSError:
        icmpv6.close()
        raise
    return icmpv6


def _solicitation(target: bytes, mac_address: str) -> bytes:
    """A neighbour solicitation. The kernel computes the checksum."""
    own = bytes.fromhex(mac_address.replace(":", ""))
    return struct.pack("!BBHI", ND_NEIGHBOR_SOLICIT, 0, 0, 0) + target + bytes([ND_OPT_SOURCE_LINKADDR, 1]) + own
