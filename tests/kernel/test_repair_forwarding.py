"""Changes to the host's FORWARD chain are repaired."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.waiting import HANG_SECONDS

pytestmark = pytest.mark.kernel

FORWARDING_STORY = """
import shlex, subprocess, sys, threading
from pathlib import Path
from types import SimpleNamespace
from tests.waiting import HANG_SECONDS, until
from openimds.agents.reconciler.scheduler import Scheduler
from openimds.agents.reconciler.reconciler import Reconciler
from openimds.linux.monitor.host_monitor import HostMonitor
from openimds.linux.configure.configurator import NetworkConfigurator
from openimds.linux.configure.ownership import OwnershipRecord
from openimds.netconfig.namespace_state import Bridge

SWITCH = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
RULE = '-A FORWARD -i brqtest -o brqtest -m comment --comment "openimds: bridged" -j ACCEPT'

VIEW = SimpleNamespace(revision=1, is_trusted=True)


class OneBridge:
    kind = "network"
    def desired(self, view): return {"n": "brqtest"}
    def actual(self): return set()
    def ensure(self, key, desired): return kernel.ensure_bridge(Bridge(name=desired, mtu=1442))
    def delete(self, key, view): return ()
    def cleanup(self, view): return ()
    def pids(self): return ()


class Mirror:
    def view(self): return VIEW
    def subscribe(self, tell): pass


def passes(): return RULE in subprocess.run(["iptables", "-S", "FORWARD"], capture_output=True, text=True).stdout


monitor = HostMonitor()
kernel = NetworkConfigurator(OwnershipRecord(Path(sys.argv[1])), "lab", monitor)
loop = Scheduler(Reconciler(OneBridge(), monitor), Mirror(), 3600)
monitor.start([], loop.wake, lambda: None)
threading.Thread(target=loop.run, daemon=True).start()
until(loop.first_resync_done.is_set)
assert passes() == (sys.argv[2] == "dropped")
for command in sys.argv[3:]:
    subprocess.run(shlex.split(command), check=True)
until(passes)
assert loop.resync_count == 1
loop.stop()
monitor.close()
print("all of it is true")
"""
BRIDGED = '-i brqtest -o brqtest -m comment --comment "openimds: bridged" -j ACCEPT'
FORWARDING_CHANGES = {
    "rule deleted": ("dropped", f"iptables -D FORWARD {BRIDGED}"),
    "chain flushed": ("dropped", "iptables -F FORWARD"),
    "everything flushed": ("dropped", "nft flush ruleset", "iptables -P FORWARD DROP"),
    "policy": ("passed", "iptables -P FORWARD DROP"),
    "switched on": ("not asked", "sysctl -q -w net.bridge.bridge-nf-call-iptables=1"),
}
FORWARDING_HOSTS = {
    "dropped": "iptables -P FORWARD DROP",
    "passed": "iptables -P FORWARD ACCEPT",
    "not asked": "iptables -P FORWARD DROP; for n in ip ip6; do sysctl -q -w net.bridge.bridge-nf-call-${n}tables=0; done",
}


@pytest.mark.parametrize("change", FORWARDING_CHANGES.values(), ids=FORWARDING_CHANGES)
def test_forwarding_within_a_bridge_is_accepted_again(tmp_path: Path, change: tuple[str, ...]) -> None:
    """The host is a namespace of its own."""
    if not Path("/proc/sys/net/bridge/bridge-nf-call-iptables").exists():
        pytest.skip("br_netfilter is not loaded here: bridged packets do not pass the host's firewall")
    script = tmp_path / "story.py"
    script.write_text(FORWARDING_STORY)
    host = f'mount -t tmpfs none /run/netns; ip link set lo up; {FORWARDING_HOSTS[change[0]]}; exec "$@"'
    argv = ["unshare", "--net", "--mount", "sh", "-c", host, "sh", sys.executable, str(script), str(tmp_path / "owned")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [*argv, *change], capture_output=True, text=True, timeout=HANG_SECONDS, check=False, env=environment
    )
    assert "all of it is true" in done.stdout, done.stderr + done.stdout
