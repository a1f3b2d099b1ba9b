"""The guests of a storm, in one process: a network namespace for each, and one loop that sends all requests.

python -m bench.storm_guests PREFIX     builds the namespaces, then prints `ready`
go                                      (a line to its stdin) all guests boot at once; prints the figures as JSON

The namespaces have no names. They are open files of this process and end with it.

Each guest sends the requests of cloud-init, one after the other, each on a new connection. The loop does not use
asyncio, because it shares the processors with the measured programs.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from bench.burst import PATHS
from bench.storm_rows import GUESTS, Guest, bridge
from openimds.linux.netns.netns import CLONE_NEWNET

ROUND_SECONDS = 90.0
"""The time limit for all guests together, in seconds."""
ADDRESS = ("169.254.169.254", 80)
_HEAD = (
    "Host: 169.254.169.254\r\nUser-Agent: Cloud-Init/25.1.4\r\nAccept-Encoding: gzip, deflate\r\nAccept: */*\r\n"
    "Connection: keep-alive\r\n\r\n"
)
_REQUESTS = [f"GET {path} HTTP/1.1\r\n{_HEAD}".encode() for path in PATHS]
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """The result of all guests in one run. `failed` counts requests without a response of status 200."""

    seconds: float
    p50_ms: float
    p99_ms: float
    slowest_ms: float
    first_p50_ms: float
    """The median of the first requests of all guests."""
    first_slowest_ms: float
    failed: int
    answers: dict[str, int]
    """Status or error → number of requests."""
    cpu_seconds: float
    """The processor seconds of this load generator."""


# Namespaces -------------------------------------------------------------------------------------------------------


class Namespaces:
    """GUESTS network namespaces without names, each plugged into its network's bridge by a veth with the guest's MAC."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._open: list[int] = []
        thread = threading.Thread(target=self._build, name="namespaces")
        thread.start()
        thread.join()
        if len(self._open) != GUESTS:
            raise RuntimeError("not all of the guests' namespaces could be made")
        self._plug()

    def socket(self, number: int) -> socket.socket:
        """Opens a TCP socket in this guest's namespace. Called on the requesting thread."""
        _enter(self._open[number])
        try:
            return socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        finally:
            _enter(self._home)

    def _build(self) -> None:
        """Runs on a thread of its own, because child processes start in the namespace of the thread."""
        home = f"/proc/{os.getpid()}/fd/{self._home}"
        for guest in map(Guest, range(GUESTS)):
            if _libc.unshare(CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "a network namespace could not be made")
            self._open.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
            _ip(
                f"link add eth0 address {guest.mac} type veth peer name {self._device(guest)} netns {home}",
                f"address add {guest.address}/24 dev eth0",
                "link set eth0 up",
                f"route add {ADDRESS[0]}/32 dev eth0",
            )

    def _plug(self) -> None:
        guests = [Guest(number) for number in range(GUESTS)]
        _ip(*(f"link set {self._device(guest)} master {bridge(guest.network_id)} up" for guest in guests))

    def _device(self, guest: Guest) -> str:
        return f"{self._prefix}{guest.number}"


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "a network namespace could not be entered")


def _ip(*lines: str) -> None:
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)


# Asking -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Boot:
    """The progress of one guest through PATHS."""

    number: int
    at: int = 0
    began: float = 0.0
    answer: bytearray = field(default_factory=bytearray)
    wanted: int = 0
    """The length of the whole response, known after its head."""
    asked: bool = False
    socket: socket.socket | None = None


class Storm:
    """One run of all guests."""

    def __init__(self, namespaces: Namespaces) -> None:
        self._namespaces = namespaces
        self._epoll = select.epoll()
        self._boots: dict[int, _Boot] = {}
        """The boots in progress, by file descriptor."""
        self._took: list[float] = []
        self._first: list[float] = []
        self._answers: dict[str, int] = {}

    def run(self) -> Round:
        cpu, began = time.process_time(), time.perf_counter()
        for number in range(GUESTS):
            self._begin(_Boot(number))
        while self._boots and time.perf_counter() - began < ROUND_SECONDS:
            for descriptor, _events in self._epoll.poll(1.0, 256):
                self._go_on(self._boots[descriptor])
        seconds = time.perf_counter() - began
        for boot in list(self._boots.values()):
            self._end(boot, "no answer in time")
        self._epoll.close()
        return self._figures(seconds, time.process_time() - cpu)

    def _begin(self, boot: _Boot) -> None:
        """Starts the guest's next request."""
        boot.began = time.perf_counter()
        boot.asked, boot.wanted = False, 0
        boot.answer.clear()
        boot.socket = one = self._namespaces.socket(boot.number)
        one.connect_ex(ADDRESS)
        self._boots[one.fileno()] = boot
        boot.asked = self._ask(boot, one)
        self._epoll.register(one, select.EPOLLIN if boot.asked else select.EPOLLOUT)

    def _ask(self, boot: _Boot, one: socket.socket) -> bool:
        try:
            one.send(_REQUESTS[boot.at])
        except (BlockingIOError, BrokenPipeError):  # the second one is not connected yet
            return False
        return True

    def _go_on(self, boot: _Boot) -> None:
        one = boot.socket
        assert one is not None
        try:
            if not boot.asked:
                one.send(_REQUESTS[boot.at])
                boot.asked = True
                self._epoll.modify(one, select.EPOLLIN)
                return
            data = one.recv(65536)
        except OSError as error:
            self._end(boot, os.strerror(error.errno or 0))
            return
        boot.answer += data
        if not boot.wanted:
            boot.wanted = _whole(boot.answer)
        if boot.wanted and len(boot.answer) >= boot.wanted:
            self._answered(boot, one)
        elif not data:
            self._end(boot, "cut off")

    def _answered(self, boot: _Boot, one: socket.socket) -> None:
        took = time.perf_counter() - boot.began
        status = boot.answer[9:12].decode()
        self._count(status)
        if status == "200":
            self._took.append(took)
            if boot.at == 0:
                self._first.append(took)
        del self._boots[one.fileno()]
        one.close()
        boot.at += 1
        if boot.at < len(_REQUESTS):
            self._begin(boot)

    def _end(self, boot: _Boot, why: str) -> None:
        """Ends this guest's boot after an error."""
        one = boot.socket
        assert one is not None
        del self._boots[one.fileno()]
        one.close()
        self._count(why)

    def _count(self, what: str) -> None:
        self._answers[what] = self._answers.get(what, 0) + 1

    def _figures(self, seconds: float, cpu_seconds: float) -> Round:
        took, first = sorted(self._took), sorted(self._first)
        return Round(
            seconds=seconds,
            p50_ms=_at(took, 0.5),
            p99_ms=_at(took, 0.99),
            slowest_ms=_at(took, 1),
            first_p50_ms=_at(first, 0.5),
            first_slowest_ms=_at(first, 1),
            failed=GUESTS * len(PATHS) - len(took),
            answers=self._answers,
            cpu_seconds=cpu_seconds,
        )


def _whole(answer: bytearray) -> int:
    """Bytes of head and body; 0 while the head is not complete."""
    end = answer.find(b"\r\n\r\n")
    if end < 0:
        return 0
    head = bytes(answer[:end]).lower() + b"\r\n"
    return end + 4 + int(head.partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0])


def _at(ordered: Sequence[float], share: float) -> float:
    """In milliseconds."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000 if ordered else 0.0


def main(prefix: str) -> None:
    namespaces = Namespaces(prefix)
    print("ready", flush=True)
    for _line in sys.stdin:
        print(json.dumps(asdict(Storm(namespaces).run())), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
