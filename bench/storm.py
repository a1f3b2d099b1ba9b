"""1,000 guests of 200 networks boot at the same time through the whole path, then again without the controller.

Real: the control API, the metadata API, the agents, the DHCP agent's 200 namespaces with a dnsmasq and a listener (or a
HAProxy) each, the bridges, and a network namespace, a MAC and an address for each guest. Not real: the instances are rows
in the store without a boot, and the guests' addresses are set instead of requested by DHCP.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.ports import free_ports
from tests.system.cloud import BIN, Cloud, run
from tests.waiting import until

from bench.burst import PATHS
from bench.metadata_store import cpu_seconds
from bench.modes import MODES, choose
from bench.sigterm import interrupted_by_sigterm
from bench.storm_guests import ROUND_SECONDS, Round
from bench.storm_rows import GUESTS, NETWORKS, fill

ROOT = Path("/tmp/openimds-bench-storm")
"""A constant, so that the next run finds the leftovers of a run that was killed."""
PREFIX = "bs-"
DEVICE = "bsg"
BUILD_SECONDS = 300
READY_SECONDS = 120
_PARTS = ("metadata-agent", "metadata-api", "control-api")
_NEIGHBOURS = Path("/proc/sys/net/ipv4/neigh/default/gc_thresh3")
_MANY_NEIGHBOURS = 16384
"""The kernel limits the neighbours of all namespaces together, and here all guests are on one machine."""


def measured(modes: Sequence[str] = MODES) -> list[str]:
    """Lines for RESULTS.md."""
    with interrupted_by_sigterm(), _many_neighbours(), _cloud() as cloud:
        rows = [row for mode in modes for row in _of_mode(cloud, mode)]
    return [
        f"## A storm: {GUESTS:,} guests of {NETWORKS} networks boot at once, through the whole path",
        "",
        (
            f"Each guest has a namespace, a MAC and an address of its own and asks {len(PATHS)} requests as cloud-init does: one "
            "after the other, each on a new connection. SQLite, one metadata agent, one worker of the metadata API, and the load "
            "generator (one thread of Python) on the same two processors. Target: all 200, p99 < 1 s, at most one upstream "
            'request an instance. "Without the controller": the metadata API and the control API are stopped (SIGSTOP) after '
            "the first round."
        ),
        "",
        (
            "| what | seconds | p50 / **p99** / slowest ms | first requests p50 / slowest ms | not 200 | forwarded to the "
            "metadata API | questions to the control API | s CPU: agent / metadata API / control API / generator |"
        ),
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *rows,
    ]


@dataclass(frozen=True, slots=True)
class _Counts:
    """The counters at one moment."""

    forwarded: float
    asked: int
    cpu: tuple[float, ...]
    """The processor seconds of each of _PARTS."""


def _of_mode(cloud: Cloud, mode: str) -> Iterator[str]:
    choose(cloud, mode, networks=NETWORKS)
    with _guests() as guests:
        _wait_for_answers(guests)
        cloud.openimds("restart", "metadata-api")
        cloud.openimds("restart", "metadata-agent")
        yield _row(cloud, f"{mode}: agent and metadata API just started", guests)
        yield _row(cloud, f"{mode}: once more", guests)
        if mode == "direct":
            stopped = [cloud.part(name)["pid"] for name in ("control-api", "metadata-api")]
            try:
                for pid in stopped:
                    os.kill(pid, signal.SIGSTOP)
                yield _row(cloud, f"{mode}: without the controller", guests)
            finally:
                for pid in stopped:
                    os.kill(pid, signal.SIGCONT)


def _row(cloud: Cloud, title: str, guests: subprocess.Popen[str]) -> str:
    before = _counts(cloud)
    seen = _round(guests)
    after = _counts(cloud)
    cpu = [f"{new - old:.1f}" for new, old in zip(after.cpu, before.cpu, strict=True)]
    wrong = ", ".join(f"{count} times {what}" for what, count in sorted(seen.answers.items()) if what != "200")
    row = (
        f"| {title} | {seen.seconds:.1f} | {seen.p50_ms:.0f} / **{seen.p99_ms:.0f}** / {seen.slowest_ms:.0f} "
        f"| {seen.first_p50_ms:.0f} / {seen.first_slowest_ms:.0f} | **{seen.failed}**{f' ({wrong})' if wrong else ''} "
        f"| {after.forwarded - before.forwarded:,.0f} | {after.asked - before.asked} "
        f"| {' / '.join([*cpu, f'{seen.cpu_seconds:.1f}'])} |"
    )
    print(row, flush=True)
    return row


def _counts(cloud: Cloud) -> _Counts:
    port = int(re.findall(r"(?m)^port = (\d+)", _file(cloud, "metadata_agent.ini").read_text())[-1])
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = re.search(r"(?m)^openimds_metadata_agent_upstream_seconds_count (\S+)", text)
    return _Counts(
        forwarded=float(found.group(1)) if found else 0.0,
        asked=cloud.log("control-api").count("/openimds/v1/instances"),
        cpu=tuple(cpu_seconds(cloud.part(name)["pid"]) for name in _PARTS),
    )


# The cloud --------------------------------------------------------------------------------------------------------


@contextmanager
def _cloud() -> Iterator[Cloud]:
    """Runs a cloud with everything that a storm needs except the guests."""
    cloud = Cloud(state_dir=ROOT / "state", control_port=0, metadata_port=0, prefix=PREFIX)
    _clean_up(cloud)
    ROOT.mkdir(mode=0o711)
    control, metadata, figures = free_ports(3)
    cloud.control_port, cloud.metadata_port = control, metadata
    try:
        cloud.up()
        with _file(cloud, "metadata_agent.ini").open("a") as file:
            file.write(f"\n[metrics]\nport = {figures}\n")
        cloud.openimds("restart", "metadata-agent")
        fill(cloud.state_dir / "openimds.sqlite", socket.gethostname())
        yield cloud
    finally:
        _clean_up(cloud)


def _clean_up(cloud: Cloud) -> None:
    """Removes also the leftovers of a run that was killed."""
    if cloud.state_dir.exists():
        argv = [str(BIN / "openimds"), "down", "--state-dir", str(cloud.state_dir), "--purge"]
        run(argv, timeout_seconds=BUILD_SECONDS, check=False)
    shutil.rmtree(ROOT, ignore_errors=True)


def _file(cloud: Cloud, name: str) -> Path:
    return cloud.state_dir / "etc" / name


@contextmanager
def _many_neighbours() -> Iterator[None]:
    before = _NEIGHBOURS.read_text()
    _NEIGHBOURS.write_text(str(max(int(before), _MANY_NEIGHBOURS)))
    try:
        yield
    finally:
        _NEIGHBOURS.write_text(before)


# The guests -------------------------------------------------------------------------------------------------------


@contextmanager
def _guests() -> Iterator[subprocess.Popen[str]]:
    """Runs the process of all guests, whose namespaces end with it."""
    argv = [sys.executable, "-m", "bench.storm_guests", DEVICE]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        if _line(process, READY_SECONDS) != "ready":
            raise RuntimeError("the guests' namespaces were not made")
        yield process
    finally:
        process.kill()
        process.wait(30)
        with contextlib.suppress(AssertionError):
            until(lambda: not list(Path("/sys/class/net").glob(f"{DEVICE}*")), "the guests' devices are gone")


def _round(guests: subprocess.Popen[str]) -> Round:
    assert guests.stdin is not None
    guests.stdin.write("go\n")
    guests.stdin.flush()
    return Round(**json.loads(_line(guests, ROUND_SECONDS + 30)))


def _wait_for_answers(guests: subprocess.Popen[str]) -> None:
    """Waits until every guest gets a response: bridges have learned the MACs, and listeners are open."""
    deadline = time.monotonic() + READY_SECONDS
    while (seen := _round(guests)).failed:
        if time.monotonic() > deadline:
            raise RuntimeError(f"not every guest is answered: {seen.answers}; see {ROOT}")


def _line(process: subprocess.Popen[str], seconds: float) -> str:
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], seconds)[0]:
        raise TimeoutError(f"the guests said nothing for {seconds:g} s")
    return process.stdout.readline().strip()
