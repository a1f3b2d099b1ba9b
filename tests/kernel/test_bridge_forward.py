"""Bridged packets on a host with a FORWARD policy of DROP (Docker, ufw). The host is a namespace of its own here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.waiting import HANG_SECONDS

pytestmark = pytest.mark.kernel

STORY = """
import sys
from pathlib import Path
from tests.kernel.stage import pings
from tests.waiting import until
from openimds.linux.configure.cleanup import remove_everything
from openimds.linux.configure.configurator import NetworkConfigurator
from openimds.linux.configure.ownership import OwnershipRecord
from openimds.linux.process.daemons import run
from openimds.netconfig.namespace_state import Bridge, Device, NamespaceState

before = [run([program]) for program in ("iptables-save", "ip6tables-save")]
ownership = OwnershipRecord(Path(sys.argv[1]))
kernel = NetworkConfigurator(ownership, "lab")
bridge = Bridge(name="brqtest", mtu=1442)
print(kernel.ensure_bridge(bridge))
for n in (1, 2):
    device = Device(name="eth0", host_name=f"taptest{n}", bridge="brqtest", mac_address=f"fa:16:3e:00:00:0{n}", mtu=1442,
                    addresses=frozenset({f"10.7.0.{n}/24", f"fd00:7::{n}/64"}))
    kernel.apply(NamespaceState(name=f"n{n}", devices=(device,)))
for address in ("10.7.0.2", "fd00:7::2"):
    until(lambda: pings("n1", address))
assert kernel.ensure_bridge(bridge) == ()
assert "brqtest" in run(["iptables-save"])
remove_everything(ownership, "lab")
strip = lambda text: [line for line in text.splitlines() if line[:1] in "-:*" and "[" not in line or line.startswith("-")]
assert [strip(run([p])) for p in ("iptables-save", "ip6tables-save")] == [strip(text) for text in before]
print("all of it is true")
"""
HOST = """
mount -t tmpfs none /run/netns 2>/dev/null || { mkdir -p /run/netns && mount -t tmpfs none /run/netns; }
ip link set lo up
for program in iptables ip6tables; do $program -P FORWARD DROP; done
exec "$@"
"""


def test_bridged_packets_pass_a_forward_policy_of_drop(tmp_path: Path) -> None:
    if not Path("/proc/sys/net/bridge/bridge-nf-call-iptables").exists():
        pytest.skip("br_netfilter is not loaded here: bridged packets do not pass the host's firewall")
    script = tmp_path / "story.py"
    script.write_text(STORY)
    argv = ["unshare", "--net", "--mount", "sh", "-c", HOST, "sh", sys.executable, str(script), str(tmp_path / "owned")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=2 * HANG_SECONDS, check=False, env=environment)
    assert "all of it is true" in done.stdout, done.stderr + done.stdout
    assert "accept forwarding within bridge brqtest in the host's firewall" in done.stdout
