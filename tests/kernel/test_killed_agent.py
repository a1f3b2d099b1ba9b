"""An agent that was killed in the middle of a pass: the next one continues."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.kernel import test_network_agents
from tests.kernel.repair_stage import AN_HOUR
from tests.kernel.test_network_agents import Cloud
from tests.waiting import until

from openimds.linux.netns import netns
from openimds.linux.process import by_namespace
from openimds.linux.process.daemons import run

pytestmark = pytest.mark.kernel

cloud = test_network_agents.cloud


def _half_built(cloud: Cloud) -> dict[str, Callable[[], bool]]:
    owned, state = cloud.state / "owned", cloud.state
    tap = f"tap{cloud.host.tag}01-00"
    return {
        "bridge noted": lambda: any((owned / "link").glob("brq*")),
        "namespace noted": lambda: any((owned / "netns").glob("*")),
        "namespace made": lambda: netns.exists(cloud.qdhcp),
        "device noted": (owned / "link" / tap).exists,
        "device made": lambda: Path("/sys/class/net", tap).exists(),
        "proxy configured": (state / "ns-metadata-proxy" / f"{cloud.network_id}.conf").exists,
        "proxy started": lambda: _pid(cloud, "proxy") != 0,
        "dnsmasq configured": (state / "dhcp" / cloud.network_id / "host").exists,
        "dnsmasq started": lambda: _pid(cloud, "dnsmasq") != 0,
    }


@pytest.mark.parametrize("number", range(9))
def test_pass_after_a_killed_agent_continues(cloud: Cloud, number: int) -> None:
    """The objects that the killed agent had finished are not created again."""
    name, is_reached = list(_half_built(cloud).items())[number]
    settings = AN_HOUR + "force_metadata = True\nmetadata_proxy = haproxy"
    cloud.dhcp.configure(settings)
    argv = [str(Path(sys.executable).parent / "openimds"), "dhcp-agent", "--config-file", str(cloud.dhcp.file)]
    with cloud.dhcp.log.open("ab") as log:
        cloud.dhcp.process = subprocess.Popen(argv, stdout=log, stderr=log)
    until(is_reached, pause_seconds=0)
    cloud.dhcp.end(signal.SIGKILL)
    running = {program: _pid(cloud, program) for program in ("proxy", "dnsmasq")}
    cloud.dhcp.start(settings)
    until(lambda: cloud.dhcp.facts().get("full_rounds"))
    assert cloud.dhcp.facts()["failures"] == {}, name
    assert "169.254.169.254/16" in run(["ip", "addr"], namespace=cloud.qdhcp)
    now = {program: _pid(cloud, program) for program in ("proxy", "dnsmasq")}
    assert by_namespace.processes_in(cloud.qdhcp) == set(now.values())
    assert all(now[program] == pid for program, pid in running.items() if pid)
    assert cloud.host.kernel.namespaces() == {cloud.qdhcp}
    assert cloud.host.ownership.names("link") == {f"brq{cloud.network_id[:11]}", f"tap{cloud.host.tag}01-00"}


def _pid(cloud: Cloud, program: str) -> int:
    """The pid of a program. 0 also while the pid file is being written."""
    try:
        return cloud.pid(program)
    except ValueError:
        return 0
