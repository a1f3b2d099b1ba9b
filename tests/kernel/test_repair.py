"""What others do to the agents' things is repaired. No full round comes to help (its interval is an hour), so that only
hearing of it can have led to the repair.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from tests.kernel import test_compute_agent, test_network_agents
from tests.kernel.stage import Host
from tests.kernel.test_network_agents import Cloud
from tests.pids import pid_in
from tests.waiting import HANG_SECONDS, until

from openimds.client.fake import FakeControl
from openimds.linux import netns
from openimds.linux.conntrack import table_name
from openimds.linux.firewall import nft_list
from openimds.linux.heard_changes import RTMGRP_ALL
from openimds.linux.programs import end_process, is_alive, run
from openimds.linux.rtnetlink import opened
from openimds.wiring import dhcp_namespace, router_namespace
from openimds.wiring.state import Bridge, Device, NamespaceState, Rules

pytestmark = pytest.mark.kernel

cloud = test_network_agents.cloud
AN_HOUR = "resync_interval = 3600\n"
SUBNET_V6 = {
    "id": "s6",
    "project_id": "p",
    "cidr": "fd00:40::/64",
    "gateway_ip": "fd00:40::1",
    "ip_version": 6,
    "enable_dhcp": False,
    "ipv6_ra_mode": "slaac",
    "ipv6_address_mode": "slaac",
}


@dataclass
class Wired:
    """One namespace that is as it should be, and how to see that it is again."""

    cloud: Cloud
    namespace: str
    device: str
    bridge: str
    files: tuple[Path, ...]
    pid_files: dict[str, Path]

    def state(self) -> NamespaceState | None:
        like = NamespaceState(
            name=self.namespace,
            sysctls=dhcp_namespace.SYSCTLS | router_namespace.SYSCTLS,
            ipv4_rules=Rules({"filter": ()}),
            ipv6_rules=Rules({"filter": ()}),
        )
        found = self.cloud.host.kernel.actual(self.namespace, like)
        # The kernel lists devices in the order that they were made in.
        return found and replace(found, devices=tuple(sorted(found.devices, key=lambda device: device.name)))

    def texts(self) -> list[str]:
        return [path.read_text() if path.exists() else "" for path in self.files]

    def pids(self) -> dict[str, int]:
        found = {name: pid_in(path) for name, path in self.pid_files.items()}
        return {name: pid if pid and is_alive(pid) and self._is_inside(pid) else 0 for name, pid in found.items()}

    def _is_inside(self, pid: int) -> bool:
        return netns.process_is_in(pid, self.namespace)

    def do(self, command: str) -> None:
        """`NS` in it: the namespace; `DEV`: the device, which has one name inside and on the host; `BR`: the bridge."""
        names = {"NS": self.namespace, "DEV": self.device, "BR": self.bridge}
        run([re.sub(r"\b(NS|DEV|BR)\b", lambda found: names[found[0]], word) for word in command.split()])

    def is_repaired(self, change: Callable[[], object], *, restarts: bool = False) -> None:
        """After the change all is as before; the programs too, unless they had to be started again."""
        state, texts, pids = self.state(), self.texts(), self.pids()
        assert state
        assert all(pids.values())
        change()
        until(lambda: (self.state(), self.texts()) == (state, texts) and all(self.pids().values()))
        assert restarts or self.pids() == pids


@pytest.fixture
def network(cloud: Cloud) -> Wired:
    folder = cloud.state / "dhcp" / cloud.network_id
    pids = cloud.state / "external" / "pids"
    proxy = cloud.state / "ns-metadata-proxy" / f"{cloud.network_id}.conf"
    cloud.dhcp.start(AN_HOUR + "force_metadata = True\nmetadata_proxy = haproxy")
    wired = Wired(
        cloud,
        cloud.qdhcp,
        f"tap{cloud.host.tag}01-00",
        f"brq{cloud.network_id[:11]}",
        (folder / "host", folder / "opts", proxy),
        {"dnsmasq": folder / "pid", "haproxy": pids / f"{cloud.network_id}.pid.haproxy"},
    )
    until(lambda: cloud.provisioned(5) == ["dhcp"])
    return wired


@pytest.fixture
def router(cloud: Cloud) -> Wired:
    cloud.control.put("subnet", SUBNET_V6 | {"network_id": cloud.network_id})
    cloud.put_router()
    v6_port = f"{cloud.host.tag}04-0000-4000-8000-00000000000b"
    cloud.control.put(
        "port",
        {
            "id": v6_port,
            "network_id": cloud.network_id,
            "project_id": "p",
            "mac_address": "fa:16:3e:00:00:04",
            "fixed_ips": [{"subnet_id": "s6", "ip_address": "fd00:40::1"}],
            "device_id": cloud.router_id,
            "device_owner": "network:router_interface",
            "binding:host_id": "node1",
            "status": "DOWN",
            "admin_state_up": True,
            "port_security_enabled": True,
        },
    )
    cloud.l3.start(AN_HOUR + "metadata_proxy = haproxy")
    pids = cloud.state / "external" / "pids"
    wired = Wired(
        cloud,
        cloud.qrouter,
        f"qr-{cloud.host.tag}03-00",
        f"brq{cloud.network_id[:11]}",
        (cloud.state / "ra" / f"{cloud.router_id}.radvd.conf",),
        {"haproxy": pids / f"{cloud.router_id}.pid.haproxy", "radvd": pids / f"{cloud.router_id}.pid.radvd"},
    )
    until(lambda: cloud.provisioned(3) == ["l2"] and cloud.provisioned(4) == ["l2"])
    return wired


NETWORK_CHANGES = {
    "address": "ip -n NS address delete 192.168.40.2/24 dev DEV",
    "metadata address": "ip -n NS address delete 169.254.169.254/16 dev DEV",
    "foreign address": "ip -n NS address add 10.99.0.1/24 dev DEV",
    "route": "ip -n NS route delete default",
    "foreign route": "ip -n NS route add 10.98.0.0/16 dev DEV",
    "down inside": "ip -n NS link set DEV down",
    "down on the host": "ip link set DEV down",
    "mtu": "ip -n NS link set DEV mtu 1300",
    "unplugged": "ip link set DEV nomaster",
    "device": "ip link delete DEV",
    "bridge": "ip link delete BR",
}


@pytest.mark.parametrize("change", NETWORK_CHANGES.values(), ids=NETWORK_CHANGES)
def test_network_is_repaired(network: Wired, change: str) -> None:
    network.is_repaired(lambda: network.do(change))


def test_each_setting_of_a_network_is_repaired(network: Wired) -> None:
    for change in _other_settings(dhcp_namespace.SYSCTLS):
        network.is_repaired(lambda change=change: network.do(change))  # type: ignore[misc]


def test_each_setting_of_a_router_is_repaired(router: Wired) -> None:
    for change in _other_settings(router_namespace.SYSCTLS):
        router.is_repaired(lambda change=change: router.do(change))  # type: ignore[misc]


def _other_settings(wanted: Mapping[str, str]) -> Iterator[str]:
    for key, value in wanted.items():
        yield f"ip netns exec NS sysctl -q -w {key}={0 if value != '0' else 1}"


@pytest.mark.parametrize("program", ["dnsmasq", "haproxy"])
def test_networks_program_is_started_again(network: Wired, program: str) -> None:
    before = network.pids()
    network.is_repaired(lambda: end_process(before[program], grace_seconds=0), restarts=True)
    now = network.pids()
    assert {name for name in now if now[name] != before[name]} == {program}


def test_host_does_not_speak_on_a_networks_bridge(network: Wired) -> None:
    """Its IPv6 is off, and is switched off again."""
    setting = Path("/proc/sys/net/ipv6/conf", network.bridge, "disable_ipv6")
    assert setting.read_text() == "1\n"
    setting.write_text("0")
    until(lambda: setting.read_text() == "1\n")


@pytest.mark.parametrize("program", ["dnsmasq", "haproxy"])
def test_stopped_program_is_replaced(network: Wired, program: str) -> None:
    """Nothing tells of a SIGSTOP: reading finds it. A stopped program's sockets go on taking what it never answers."""
    before = network.pids()
    os.kill(before[program], signal.SIGSTOP)
    until(lambda: all(network.pids().values()) and network.pids() != before)
    assert not is_alive(before[program])
    assert {name for name, pid in network.pids().items() if pid != before[name]} == {program}


def test_removed_namespace_of_a_network_is_made_again(network: Wired) -> None:
    """With its programs; those that go on in what has no name any more are ended."""
    before = network.pids()
    network.is_repaired(lambda: network.do("ip netns delete NS"), restarts=True)
    until(lambda: not any(is_alive(pid) for pid in before.values()))


def test_shared_address_is_taken_back_when_the_other_host_gives_it_up(cloud: Cloud) -> None:
    cloud.control.put("subnet", SUBNET_V6 | {"network_id": cloud.network_id})
    bridge = Bridge(name=f"brq{cloud.network_id[:11]}", mtu=1442)
    cloud.host.kernel.ensure_bridge(bridge)
    other = cloud.host.namespace("other")
    device = Device(
        name=f"tap{cloud.host.tag}9-xx",
        host_name=f"tap{cloud.host.tag}9-xx",
        bridge=bridge.name,
        mac_address="fa:16:3e:aa:aa:aa",
        mtu=1442,
        addresses=frozenset({"fe80::a9fe:a9fe/64"}),
    )
    cloud.host.kernel.apply(NamespaceState(name=other, devices=(device,)))
    until(lambda: "tentative" not in run(["ip", "-6", "addr"], namespace=other))
    cloud.dhcp.start(AN_HOUR + "force_metadata = True\nmetadata_proxy = haproxy")
    until(lambda: _elsewhere(cloud) != [])
    assert "dadfailed" in run(["ip", "-6", "addr"], namespace=cloud.qdhcp)
    cloud.host.kernel.remove_namespace(other)
    until(lambda: _elsewhere(cloud) == [])
    shown = run(["ip", "-6", "addr", "show", "to", "fe80::a9fe:a9fe"], namespace=cloud.qdhcp)
    assert "fe80::a9fe:a9fe" in shown
    assert not {"dadfailed", "tentative"} & set(shown.split())


def _elsewhere(cloud: Cloud) -> object:
    networks = cloud.dhcp.facts().get("by_network") or {}
    return networks.get(cloud.network_id, {}).get("ipv6_metadata_elsewhere", [])


@pytest.mark.parametrize("number", [0, 1, 2])
def test_edited_file_is_written_again(network: Wired, number: int) -> None:
    network.is_repaired(lambda: network.files[number].write_text("# somebody's\n"), restarts=True)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_deleted_file_is_written_again(network: Wired, number: int) -> None:
    network.is_repaired(network.files[number].unlink, restarts=True)


ROUTER_CHANGES = {
    "address": "ip -n NS address delete 192.168.40.1/24 dev DEV",
    "down": "ip -n NS link set DEV down",
    "nat flushed": "ip netns exec NS iptables -t nat -F",
    "ruleset flushed": "ip netns exec NS nft flush ruleset",
    "foreign rule": "ip netns exec NS iptables -I INPUT -j ACCEPT",
    "ipv6 rule": "ip netns exec NS ip6tables -F INPUT",
    "device": "ip link delete DEV",
}


@pytest.mark.parametrize("change", ROUTER_CHANGES.values(), ids=ROUTER_CHANGES)
def test_router_is_repaired(router: Wired, change: str) -> None:
    host_name = f"tap{router.device.removeprefix('qr-')}"
    on_the_host = change.replace("link delete DEV", f"link delete {host_name}")
    router.is_repaired(lambda: router.do(on_the_host))


@pytest.mark.parametrize("program", ["haproxy", "radvd"])
def test_routers_program_is_started_again(router: Wired, program: str) -> None:
    before = router.pids()
    router.is_repaired(lambda: end_process(before[program], grace_seconds=0), restarts=True)
    now = router.pids()
    assert {name for name in now if now[name] != before[name]} == {program}


def test_removed_namespace_of_a_router_is_made_again(router: Wired) -> None:
    router.is_repaired(lambda: router.do("ip netns delete NS"), restarts=True)


def test_full_round_touches_nothing_that_is_right(router: Wired) -> None:
    netns.in_namespace(router.namespace, _knock)
    until(lambda: any(not rule.startswith("[0:0]") for rule in _rules(_saved(router))))
    counted = _saved(router)
    pids, written = router.pids(), [path.stat().st_mtime_ns for path in (*router.files, *router.pid_files.values())]
    rounds = router.cloud.l3.facts()["full_rounds"]
    with closing(netns.in_namespace(router.namespace, lambda: opened(groups=RTMGRP_ALL))) as heard:
        router.cloud.l3.send(signal.SIGHUP)
        until(lambda: router.cloud.l3.facts()["full_rounds"] > rounds)
        with pytest.raises(BlockingIOError):
            heard.recv(1, socket.MSG_DONTWAIT)
    assert router.pids() == pids
    assert [path.stat().st_mtime_ns for path in (*router.files, *router.pid_files.values())] == written
    assert _rules(_saved(router)) == _rules(counted)


def _knock() -> None:
    """A packet that the rules see."""
    with socket.socket() as sender:
        sender.setblocking(False)
        sender.connect_ex(("127.0.0.1", 9697))


def _saved(router: Wired) -> str:
    return run(["iptables-save", "-c"], namespace=router.namespace)


def _rules(saved: str) -> list[str]:
    return [line for line in saved.splitlines() if line.startswith("[")]


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
def test_agent_that_is_killed_while_it_builds_builds_on(cloud: Cloud, number: int) -> None:
    """And what it had finished is not made again."""
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
    assert netns.processes_in(cloud.qdhcp) == set(now.values())
    assert all(now[program] == pid for program, pid in running.items() if pid)
    assert cloud.host.kernel.namespaces() == {cloud.qdhcp}
    assert cloud.host.ledger.names("link") == {f"brq{cloud.network_id[:11]}", f"tap{cloud.host.tag}01-00"}


def _pid(cloud: Cloud, program: str) -> int:
    """0 also while the program is about to write it."""
    try:
        return cloud.pid(program)
    except ValueError:
        return 0


@pytest.fixture
def server(host: Host) -> Iterator[test_compute_agent.Cloud]:
    with FakeControl() as control:
        cloud = test_compute_agent.Cloud(host, control)
        cloud.resync_interval = 3600
        try:
            cloud.start_agent()
            until(lambda: cloud.reported(1, "running"))
            until(lambda: cloud.heartbeat().get("full_rounds"))
            yield cloud
        finally:
            cloud.stop_agent()


PORT_CHANGES = {
    "tap unplugged": "ip link set TAP nomaster",
    "tap down": "ip link set TAP down",
    "tap deleted": "ip link delete TAP",
    "bridge deleted": "ip link delete BR",
    "chain flushed": "nft flush chain bridge TABLE TAP",
    "table deleted": "nft delete table bridge TABLE",
    "exemption flushed": "nft flush table inet TABLE",
    "exemption deleted": "nft delete table inet TABLE",
    "exemption of the bridge": "nft delete element inet TABLE bridges { BR }",
    "exemption overruled": "nft insert rule inet TABLE untracked accept",
    "port let go": "nft delete element bridge TABLE instances { TAP }",
    "ports let go": "nft flush map bridge TABLE instances",
    "table let go": "nft insert rule bridge TABLE prerouting accept",
    "table not asked": "nft flush chain bridge TABLE prerouting",
    "nobody may send": "nft chain bridge TABLE prerouting { policy drop ; }",
    "a foreign rule of a port": "nft insert rule bridge TABLE TAP accept",
}


@pytest.mark.parametrize("change", PORT_CHANGES.values(), ids=PORT_CHANGES)
def test_servers_port_is_repaired_and_the_guest_goes_on(server: test_compute_agent.Cloud, change: str) -> None:
    tap, table = f"tap{server.port_id[:11]}", table_name(server.host.prefix)
    names = {"TAP": tap, "BR": server.bridge, "TABLE": table}
    record, before = server.boot_record(), _port_state(server, tap, table)
    assert all(before)
    run([names.get(word, word) for word in change.split()])
    until(lambda: _port_state(server, tap, table) == before)
    assert server.boot_record() == record
    assert is_alive(int(record.split()[0]))


def _port_state(server: test_compute_agent.Cloud, tap: str, table: str) -> tuple[object, ...]:
    links = server.host.kernel.links()
    plugged = tap in links and server.bridge in links and links[tap].master_index == links[server.bridge].index
    rules = [_without_handles(nft_list(family, table) or "") for family in ("bridge", "inet")]
    return (plugged, plugged and links[tap].up and links[server.bridge].up, *rules)


def _without_handles(listing: str) -> str:
    return re.sub(r"packets \d+ bytes \d+", "", listing)


FORWARDING_STORY = """
import shlex, subprocess, sys, threading
from pathlib import Path
from types import SimpleNamespace
from tests.waiting import HANG_SECONDS, until
from openimds.agents.loop import Loop
from openimds.agents.reconcile import Rounds
from openimds.linux.events import HostEvents
from openimds.linux.kernel import Kernel
from openimds.linux.ledger import Ledger
from openimds.wiring.state import Bridge

SWITCH = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
RULE = '-A FORWARD -i brqtest -o brqtest -m comment --comment "openimds: bridged" -j ACCEPT'

VIEW = SimpleNamespace(revision=1)


class OneBridge:
    kind = "network"
    def wanted(self, view): return {"n": "brqtest"}
    def there(self): return set()
    def make(self, key, wanted): return kernel.ensure_bridge(Bridge(name=wanted, mtu=1442))
    def remove(self, key, view): return ()
    def tidy(self, view): return ()
    def pids(self): return ()


class Mirror:
    def view(self): return VIEW
    def subscribe(self, tell): pass


def passes(): return RULE in subprocess.run(["iptables", "-S", "FORWARD"], capture_output=True, text=True).stdout


events = HostEvents()
kernel = Kernel(Ledger(Path(sys.argv[1])), "lab", events)
loop = Loop(Rounds(OneBridge(), events), Mirror(), 3600)
events.start([], loop.look_at_news, lambda: None)
threading.Thread(target=loop.run, daemon=True).start()
until(loop.first_round_done.is_set)
assert passes() == (sys.argv[2] == "dropped")
for command in sys.argv[3:]:
    subprocess.run(shlex.split(command), check=True)
until(passes)
assert loop.full_rounds == 1
loop.stop()
events.close()
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
def test_what_stays_on_a_bridge_passes_again(tmp_path: Path, change: tuple[str, ...]) -> None:
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
