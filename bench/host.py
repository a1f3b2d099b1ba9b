"""One host with 1,000 networks: first pass, idle pass, and repair of foreign changes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.host_changes import REPAIRS, REPAIRS_OF_A_KIND, all_notifications, repairs, until, wait_until_settled
from bench.host_networks import NETWORKS, PORTS_PER_NETWORK, PREFIX, STATE, Place, put_network
from bench.sigterm import interrupted_by_sigterm
from openimds.client.testing import PASSWORD, FakeControl
from openimds.linux.configure.cleanup import remove_everything
from openimds.linux.configure.ownership import OwnershipRecord
from openimds.linux.netns import netns
from openimds.linux.netns.handles import NamespaceHandles
from openimds.linux.netns.probe import NamespaceProbe
from openimds.netconfig.addresses import METADATA_IPV4
from openimds.netconfig.listener_file import ListenAddress

BUILD_SECONDS = 200.0
FURTHER_NETWORKS = 5
CONFIG = f"""\
[DEFAULT]
state_path = {STATE}
host = bench
namespace_prefix = {PREFIX}
{{more}}
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
        with interrupted_by_sigterm(), FakeControl() as control:
            for number in range(NETWORKS):
                put_network(control, number)
            return _of_a_host(control)
    finally:
        _clean_up()


def _of_a_host(control: FakeControl) -> list[str]:
    with _metadata_agent(control):
        with _dhcp_agent(control) as agent:
            build_seconds = agent.seconds_to_full_round(1)
        wait_until_settled()
        with _dhcp_agent(control) as agent:
            agent.seconds_to_full_round(1)
            restart = agent.facts()
            with all_notifications() as heard:
                rounds = [agent.full_round() for _ in range(3)]
                notifications = heard()
            further = [_seconds_to_listener(control, NETWORKS + number) for number in range(FURTHER_NETWORKS)]
            slowest = {name: max(repairs(kind)) for name, kind in REPAIRS.items()}
            memory = agent.resident_mib()
    with _metadata_agent(control) as metadata:
        listening_seconds = metadata.seconds_to_ready()
        count, metadata_memory = metadata.listening_sockets(), metadata.resident_mib()
    seconds, cpu_seconds = min(rounds)
    return [
        f"## A host with {NETWORKS:,} networks and {NETWORKS * PORTS_PER_NETWORK:,} ports",
        "",
        (
            f"The DHCP agent with `metadata_proxy = direct` before a control API in memory, a dnsmasq a network. Built "
            f"from nothing: **{build_seconds:.0f} s** ({build_seconds / NETWORKS * 1000:.0f} ms a network). Started again "
            f"on what is there: first full round {restart['full_round_milliseconds'] / 1000:.2f} s. A further full round, "
            f"nothing changed: **{seconds:.2f} s** ({cpu_seconds:.2f} s of processor; target: < 2 s), netlink notifications "
            f"in all namespaces and on the host during three of them: **{notifications}** (target: 0). Resident memory of "
            f"the agent: **{memory:.0f} MiB**."
        ),
        "",
        (
            f"A further network, from its namespace to its listener's answer, median of {FURTHER_NETWORKS}: "
            f"**{statistics.median(further) * 1000:.0f} ms** (slowest {max(further) * 1000:.0f} ms; target: < 50 ms). The "
            f"metadata agent started where all of it is: **{listening_seconds:.2f} s** to {count:,} sockets that listen, "
            f"Python's own start with it (target: < 2 s); resident memory **{metadata_memory:.0f} MiB** (target: < 100)."
        ),
        "",
        f"Foreign changes, full rounds an hour apart; the slowest of {REPAIRS_OF_A_KIND} repairs (target: < 5 s):",
        "",
        "| what | seconds |",
        "| --- | --- |",
        *(f"| {name} | {seconds:.2f} |" for name, seconds in slowest.items()),
    ]


def _seconds_to_listener(control: FakeControl, number: int) -> float:
    """The time starts when the namespace exists."""
    place = Place(number)
    put_network(control, number)
    until(lambda: netns.exists(place.namespace), 60)
    began = time.perf_counter()
    address = ListenAddress(METADATA_IPV4, 80)
    until(lambda: NamespaceProbe(NamespaceHandles()).can_connect(place.namespace, address), 60)
    return time.perf_counter() - began


# The agent --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Agent:
    control: FakeControl
    process: subprocess.Popen[bytes]
    log: Path
    began: float

    def facts(self) -> dict[str, Any]:
        """The configurations of the agent's last heartbeat."""
        bodies = [call.body for call in self.control.calls if call.path == "/agents/openimds-dhcp-agent/bench"]
        return dict(json.loads(bodies[-1])["configurations"]) if bodies else {}

    def seconds_to_full_round(self, number: int) -> float:
        """Waits for this number of full passes since the agent's start. Raises RuntimeError if a network has failed."""
        began = time.perf_counter()
        until(lambda: self.facts().get("full_rounds", 0) >= number, BUILD_SECONDS)
        if failures := self.facts()["failures"]:
            raise RuntimeError(f"{len(failures)} networks failed, such as: {next(iter(failures.items()))}")
        return time.perf_counter() - began

    def full_round(self) -> tuple[float, float]:
        """Runs one more full pass. Returns its duration and its processor time in seconds."""
        number, cpu = self.facts()["full_rounds"] + 1, self._cpu_seconds()
        self.process.send_signal(signal.SIGHUP)
        self.seconds_to_full_round(number)
        return self.facts()["full_round_milliseconds"] / 1000, self._cpu_seconds() - cpu

    def seconds_to_ready(self) -> float:
        """Waits for readiness. Returns the seconds since the agent's start."""
        until(lambda: b"] ready" in self.log.read_bytes(), 60)
        return time.perf_counter() - self.began

    def listening_sockets(self) -> int:
        """The number of the agent's internet sockets in the namespaces of networks."""
        return len(NamespaceProbe(NamespaceHandles()).sockets_of(self.process.pid) & _listening_inodes())

    def resident_mib(self) -> float:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def _cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _dhcp_agent(control: FakeControl) -> AbstractContextManager[_Agent]:
    return _agent(control, "dhcp-agent", "resync_interval = 3600\nmetadata_proxy = direct\nforce_metadata = True")


def _metadata_agent(control: FakeControl) -> AbstractContextManager[_Agent]:
    return _agent(control, "metadata-agent", "metadata_proxy_shared_secret = bench")


@contextmanager
def _agent(control: FakeControl, name: str, more: str) -> Iterator[_Agent]:
    control.calls.clear()
    file, log = STATE / f"{name}.ini", STATE / f"{name}.log"
    file.write_text(CONFIG.format(auth_url=control.auth.auth_url, more=more))
    argv = [str(Path(sys.executable).parent / "openimds"), name, "--config-file", str(file)]
    with log.open("wb") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=output)
    try:
        yield _Agent(control, process, log, time.perf_counter())
    finally:
        process.terminate()
        process.wait(30)


# Before and after -------------------------------------------------------------------------------------------------


def _listening_inodes() -> frozenset[int]:
    looks = (
        NamespaceProbe(NamespaceHandles()).listening_sockets(Place(number).namespace) for number in range(NETWORKS)
    )
    return frozenset(inode for found in looks for inodes in found.values() for inode in inodes)


def _clean_up() -> None:
    """Removes also the leftovers of a run that was killed."""
    for file in STATE.glob("dhcp/*/pid"):
        with contextlib.suppress(ValueError, OSError):  # the process has ended or never started
            pid = int(file.read_text())
            if str(STATE) in Path(f"/proc/{pid}/cmdline").read_text():
                os.kill(pid, signal.SIGKILL)
    remove_everything(OwnershipRecord(STATE / "owned"), PREFIX)
    shutil.rmtree(STATE, ignore_errors=True)
