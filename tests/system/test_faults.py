"""Each program is killed by SIGKILL while an instance polls. The program is restarted and nothing else is affected."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.system.api_client import ApiClient
from tests.system.cloud import Cloud
from tests.waiting import HANG_SECONDS, until

from openimds.config.programs import PROGRAMS

URL = "http://169.254.169.254/latest/meta-data/instance-id"
IN_THE_PATH = {"haproxy": ("metadata-api", "metadata-agent"), "direct": ("metadata-agent",)}
"""The programs whose end may fail a request in flight. The end of any other program fails no request."""


@dataclass(slots=True)
class Poller:
    """A guest that polls its instance id. All other responses are stored in `wrong`."""

    argv: list[str]
    expected: str
    wrong: list[str] = field(default_factory=list)
    good: int = 0
    stopped: threading.Event = field(default_factory=threading.Event)

    def poll(self) -> None:
        while not self.stopped.is_set():
            done = subprocess.run(self.argv, capture_output=True, text=True, check=False)
            if done.returncode == 0 and done.stdout == self.expected:
                self.good += 1
            else:
                self.wrong.append(f"{done.returncode}: {done.stdout[:80]}")
            time.sleep(0.05)

    def answers_again(self) -> bool:
        before = self.good
        time.sleep(0.2)
        return self.good > before


@pytest.fixture(scope="module")
def server(cloud: Cloud) -> str:
    """The id of a running instance behind a router."""
    api = ApiClient(cloud)
    network = api.network("n", "192.168.40.0/24")
    api.router("r", network)
    found = api.server("vm", network)
    cloud.wait_booted(found, "vm")
    return found


@pytest.fixture
def poller(cloud: Cloud, server: str) -> Iterator[Poller]:
    argv = ["ip", "netns", "exec", f"{cloud.prefix}qvm-{server}", "curl", "-sf", "-m", f"{HANG_SECONDS:g}", URL]
    expected = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    polling = Poller(argv, expected)
    thread = threading.Thread(target=polling.poll)
    thread.start()
    try:
        yield polling
    finally:
        polling.stopped.set()
        thread.join()


@pytest.mark.parametrize("part", PROGRAMS)
def test_killed_program_is_restarted(cloud: Cloud, metadata_proxy: str, poller: Poller, part: str) -> None:
    before = cloud.part(part)
    others = {name: cloud.part(name)["pid"] for name in PROGRAMS if name != part}
    daemons = daemon_pids(cloud)
    assert daemons.keys() >= {"dnsmasq", "instance"}
    os.kill(before["pid"], signal.SIGKILL)
    until(lambda: cloud.part(part)["pid"] != before["pid"], f"{part} is started again")
    until(lambda: cloud.part(part)["state"] == "running", f"{part} serves again")
    until(poller.answers_again, "the instance receives responses again")
    assert {name: cloud.part(name)["pid"] for name in others} == others
    assert daemon_pids(cloud) == daemons, "dnsmasq, HAProxy and the instance are not restarted"
    if part not in IN_THE_PATH[metadata_proxy]:
        assert poller.wrong == []
    lines = [line for line in cloud.log("supervisor").splitlines() if part in line and str(before["pid"]) in line]
    # The exit status of a program that another supervisor started is unknown.
    how = [line for line in lines if "killed by SIGKILL" in line or "an earlier supervisor started it" in line]
    assert len(how) == 1, cloud.log("supervisor")


@pytest.mark.parametrize(
    ("metadata_proxy", "program"),
    [("haproxy", "haproxy"), ("haproxy", "dnsmasq"), ("direct", "dnsmasq")],
    indirect=["metadata_proxy"],
)
@pytest.mark.usefixtures("metadata_proxy")
def test_killed_program_of_a_namespace_is_restarted(cloud: Cloud, poller: Poller, program: str) -> None:
    pid = daemon_pids(cloud)[program]
    os.kill(pid, signal.SIGKILL)
    until(lambda: daemon_pids(cloud).get(program, pid) != pid, f"{program} runs again")
    until(poller.answers_again, "the instance receives responses again")


@pytest.mark.usefixtures("metadata_proxy")
def test_up_after_a_killed_supervisor_adopts_the_running_programs(cloud: Cloud, poller: Poller) -> None:
    pids = {name: cloud.part(name)["pid"] for name in PROGRAMS}
    daemons = daemon_pids(cloud)
    os.kill(cloud.supervisor_pid(), signal.SIGKILL)
    cloud.up()
    until(lambda: all(cloud.part(name)["state"] == "running" for name in pids), "all parts run")
    until(poller.answers_again, "the instance receives responses")
    assert {name: cloud.part(name)["pid"] for name in PROGRAMS} == pids
    assert daemon_pids(cloud) == daemons
    assert poller.wrong == []


def daemon_pids(cloud: Cloud) -> dict[str, int]:
    """The PIDs of this cloud's dnsmasq, HAProxy and instance."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            argv = entry.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        name = Path(argv[0]).name
        if name in {"haproxy", "dnsmasq"} and any(str(cloud.state_dir) in word for word in argv):
            found[name] = int(entry.parent.name)
    for pid_file in (cloud.state_dir / "instances").glob("*/boot.pid"):
        found["instance"] = int(pid_file.read_text().split()[0])
    return found
