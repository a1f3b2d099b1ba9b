"""One host with a thousand networks: built, looked at again, and repaired when others change it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openimds.client.fake import PASSWORD, FakeControl
from openimds.linux import netlink, netns
from openimds.linux.cleanup import remove_everything
from openimds.linux.events import RTMGRP_ALL, RTMGRP_LINK
from openimds.linux.ledger import Ledger
from openimds.linux.programs import end_process, is_alive, run
from openimds.linux.rtnetlink import messages, opened
from openimds.resources.network import dhcp_namespace
from openimds.wiring.dhcp_network import dhcp_device_id

NETWORKS = 1000
PORTS_PER_NETWORK = 5
"""The DHCP port, and four instances'."""
REPAIRS_OF_A_KIND = 3
BUILD_SECONDS = 240.0
STATE = Path("/tmp/openimds-bench-host")
"""Always the same, so that the next run finds what is left of one that was killed."""
PREFIX = "bh-"
CONFIG = f"""\
[DEFAULT]
state_path = {STATE}
host = bench
namespace_prefix = {PREFIX}
resync_interval = 3600
[agent]
report_interval = 1
[keystone_authtoken]
auth_url = {{auth_url}}
username = agent
password = {PASSWORD}
project_name = service
user_domain_name = Default
project_domain_name = Default
"""


def measured() -> list[str]:
    """Lines for RESULTS.md."""
    _clean_up()
    STATE.mkdir(mode=0o755)
    try:
        with _until_told_to_end(), FakeControl() as control:
            _fill(control)
            return _of_a_host(control)
    finally:
        _clean_up()


def _of_a_host(control: FakeControl) -> list[str]:
    with _agent(control) as agent:
        build_seconds = agent.seconds_to_full_round(1)
    with _agent(control) as agent:
        agent.seconds_to_full_round(1)
        restart = agent.facts()
        with _all_notifications() as heard:
            rounds = [agent.full_round() for _ in range(3)]
            notifications = heard()
        repairs = {name: max(_repairs(kind)) for name, kind in REPAIRS.items()}
        memory = agent.resident_mib()
    seconds, cpu_seconds = min(rounds)
    return [
        f"## A host with {NETWORKS:,} networks and {NETWORKS * PORTS_PER_NETWORK:,} ports",
        "",
        (
            f"The DHCP agent before a control API in memory, a dnsmasq a network. Built from nothing: "
            f"**{build_seconds:.0f} s** ({build_seconds / NETWORKS * 1000:.0f} ms a network). Started again on what is "
            f"there: first full round {restart['full_round_milliseconds'] / 1000:.2f} s. A further full round, nothing "
            f"changed: **{seconds:.2f} s** ({cpu_seconds:.2f} s of processor; target: < 2 s), netlink notifications in "
            f"all namespaces and on the host during three of them: **{notifications}** (target: 0). "
            f"Resident memory of the agent: **{memory:.0f} MiB**."
        ),
        "",
        f"Foreign changes, full rounds an hour apart; the slowest of {REPAIRS_OF_A_KIND} repairs (target: < 5 s):",
        "",
        "| what | seconds |",
        "| --- | --- |",
        *(f"| {name} | {seconds:.2f} |" for name, seconds in repairs.items()),
    ]


# The agent --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Agent:
    control: FakeControl
    process: subprocess.Popen[bytes]

    def facts(self) -> dict[str, Any]:
        """Its last heartbeat's."""
        bodies = [call.body for call in self.control.calls if call.path == "/agents/openimds-dhcp-agent/bench"]
        return dict(json.loads(bodies[-1])["configurations"]) if bodies else {}

    def seconds_to_full_round(self, number: int) -> float:
        """As counted by this run of the agent; without failures."""
        began = time.perf_counter()
        _until(lambda: self.facts().get("full_rounds", 0) >= number, BUILD_SECONDS)
        if failures := self.facts()["failures"]:
            raise RuntimeError(f"{len(failures)} networks failed, such as: {next(iter(failures.items()))}")
        return time.perf_counter() - began

    def full_round(self) -> tuple[float, float]:
        """One more: seconds of the clock, and of the processor."""
        number, cpu = self.facts()["full_rounds"] + 1, self._cpu_seconds()
        self.process.send_signal(signal.SIGHUP)
        self.seconds_to_full_round(number)
        return self.facts()["full_round_milliseconds"] / 1000, self._cpu_seconds() - cpu

    def resident_mib(self) -> float:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def _cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _agent(control: FakeControl) -> Iterator[_Agent]:
    control.calls.clear()
    file = STATE / "dhcp_agent.ini"
    file.write_text(CONFIG.format(auth_url=control.auth.auth_url))
    argv = [str(Path(sys.executable).parent / "openimds"), "dhcp-agent", "--config-file", str(file)]
    with (STATE / "agent.log").open("ab") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        yield _Agent(control, process)
    finally:
        process.terminate()
        process.wait(30)


# What is wanted ---------------------------------------------------------------------------------------------------


def network_id(number: int) -> str:
    return f"bec{number:05x}-00aa-4000-8000-00000000000a"


def _fill(control: FakeControl) -> None:
    for number in range(NETWORKS):
        network, subnet = network_id(number), f"bec{number:05x}-00bb-4000-8000-00000000000b"
        control.put("network", {"id": network, "name": "n", "project_id": "p", "mtu": 1442})
        control.put(
            "subnet",
            {
                "id": subnet,
                "network_id": network,
                "project_id": "p",
                "cidr": "192.168.40.0/24",
                "gateway_ip": "192.168.40.1",
                "ip_version": 4,
                "enable_dhcp": True,
            },
        )
        for port in range(PORTS_PER_NETWORK):
            control.put("port", _port(number, port, subnet))


def _port(number: int, port: int, subnet: str) -> dict[str, object]:
    owner = (
        ("network:dhcp", dhcp_device_id("bench", network_id(number))) if port == 0 else ("compute:nova", f"vm{port}")
    )
    return {
        "id": f"{port:01x}be{number:05x}-00cc-4000-8000-00000000000c",
        "network_id": network_id(number),
        "project_id": "p",
        "mac_address": f"fa:16:3e:{port:02x}:{number >> 8:02x}:{number & 255:02x}",
        "fixed_ips": [{"subnet_id": subnet, "ip_address": f"192.168.40.{port + 2}"}],
        "device_id": owner[1],
        "device_owner": owner[0],
        "binding:host_id": "bench",
        "status": "ACTIVE",
        "admin_state_up": True,
        "port_security_enabled": True,
    }


# What others do ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """One of the networks."""

    number: int

    @property
    def namespace(self) -> str:
        return dhcp_namespace(network_id(self.number), PREFIX)

    @property
    def device(self) -> str:
        return f"tap0be{self.number:05x}-00"

    @property
    def bridge(self) -> str:
        return f"brq{network_id(self.number)[:11]}"

    @property
    def folder(self) -> Path:
        return STATE / "dhcp" / network_id(self.number)

    def pid(self) -> int:
        with contextlib.suppress(FileNotFoundError, ValueError):
            pid = int((self.folder / "pid").read_text())
            return pid if is_alive(pid) and netns.process_is_in(pid, self.namespace) else 0
        return 0

    def ip(self, words: str) -> str:
        return run(["ip", "-n", self.namespace, *words.split()])


@dataclass(frozen=True)
class _Foreign:
    """A change, and whether it is undone; both for one network."""

    change: Callable[[_Place], object]
    is_undone: Callable[[_Place], bool]


def _on_bridge(place: _Place) -> bool:
    with contextlib.suppress(Exception):
        return place.bridge in run(["ip", "-o", "link", "show", place.device])
    return False


def _has_address(place: _Place) -> bool:
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
    "dnsmasq killed": _Foreign(lambda p: end_process(p.pid(), grace_seconds=0), lambda p: p.pid() != 0),
    "namespace deleted": _Foreign(
        lambda p: run(["ip", "netns", "del", p.namespace]), lambda p: _has_address(p) and p.pid() != 0
    ),
}


def _repairs(kind: _Foreign) -> Iterator[float]:
    """Seconds that each took, in networks far apart."""
    for number in range(REPAIRS_OF_A_KIND):
        place = _Place((number * 2 + 1) * NETWORKS // (REPAIRS_OF_A_KIND * 2))
        began = time.perf_counter()
        kind.change(place)
        _until(lambda place=place: kind.is_undone(place), 60)  # type: ignore[misc]
        yield time.perf_counter() - began


@contextmanager
def _all_notifications() -> Iterator[Callable[[], int]]:
    """How many came since the beginning of the block, in any of the namespaces or of their devices on the host."""
    places = [_Place(number) for number in range(NETWORKS)]
    names = {name for place in places for name in (place.device, place.bridge)}
    host = opened(groups=RTMGRP_LINK)
    inside = [netns.in_namespace(place.namespace, lambda: opened(groups=RTMGRP_ALL)) for place in places]

    def count() -> int:
        on_host = sum(1 for data in _waiting(host) for _kind, _flags, one in messages(data) if _name(one) in names)
        return on_host + sum(1 for listening in inside for _data in _waiting(listening))

    try:
        yield count
    finally:
        for listening in (host, *inside):
            listening.close()


def _name(message: bytes) -> str:
    return netlink.link_value(message).name


def _waiting(listening: socket.socket) -> Iterator[bytes]:
    with contextlib.suppress(BlockingIOError):
        while data := listening.recv(1 << 16, socket.MSG_DONTWAIT):
            yield data


# Before and after -------------------------------------------------------------------------------------------------


def _clean_up() -> None:
    """Also what a run left that was killed."""
    for file in STATE.glob("dhcp/*/pid"):
        with contextlib.suppress(ValueError, OSError):  # it has ended, or never was
            pid = int(file.read_text())
            if str(STATE) in Path(f"/proc/{pid}/cmdline").read_text():
                os.kill(pid, signal.SIGKILL)
    remove_everything(Ledger(STATE / "owned"), PREFIX)
    shutil.rmtree(STATE, ignore_errors=True)


@contextmanager
def _until_told_to_end() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does."""

    def end(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _until(reached: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not reached within {seconds:g} s; see {STATE}/agent.log")
        time.sleep(0.02)
