"""The open handles of namespaces.

They are closed together with the namespace, never replace the kernel's state, and are optional.
"""

from __future__ import annotations

import gc
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from tests.kernel.stage import Host
from tests.waiting import HANG_SECONDS, until

from openimds.linux.configure.configurator import NetworkConfigurator
from openimds.linux.monitor.host_monitor import HostMonitor
from openimds.linux.netlink import sock_diag
from openimds.linux.netlink.socket import HEADER, NLMSG_DONE, NetlinkSocket
from openimds.linux.netns import netns
from openimds.linux.netns.probe import NamespaceProbe
from openimds.linux.process.daemons import run
from openimds.netconfig.listener_file import ListenAddress
from openimds.netconfig.namespace_state import Bridge, Device, NamespaceState, Rules

pytestmark = pytest.mark.kernel

MANY = 200
SETTINGS = {"net.ipv4.ip_forward": "1", "net.ipv4.conf.all.arp_ignore": "1"}


@pytest.fixture
def monitor() -> Iterator[HostMonitor]:
    made = HostMonitor()
    yield made
    made.close()


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_removed_namespaces_leave_no_open_descriptors(host: Host, monitor: HostMonitor, tmp_path: Path) -> None:
    """Another program deletes half of the namespaces."""
    kernel = NetworkConfigurator(host.ownership, host.prefix, monitor)
    probe = NamespaceProbe(kernel.handles)
    monitor.start([tmp_path / "dhcp"], lambda: None, lambda: None)
    desired = NamespaceState(name=host.namespace("qrouter-1"), sysctls=SETTINGS, ipv4_rules=Rules({"filter": ()}))
    gc.collect()  # sockets of earlier tests must not be closed in between
    before = _descriptors()
    for number in range(MANY):
        key = f"key{number}"
        with monitor.recording(key):
            assert kernel.apply(desired)
            assert kernel.apply(desired) == ()
            probe.snapshot(desired.name, [ListenAddress("127.0.0.1", 80)])
        assert _descriptors() > before
        if number % 2:
            netns.delete(desired.name)
        kernel.remove_namespace(desired.name)
        monitor.forget(key)
    until(lambda: _descriptors() == before)
    assert kernel.actual(desired.name) is None


SMALL_STORY = """
import os, resource, sys
from pathlib import Path
from openimds.linux.monitor.process_exit import ProcessExitWatcher
from openimds.linux.monitor.host_monitor import HostMonitor
from openimds.linux.netns.probe import NamespaceProbe
from openimds.linux.configure.configurator import NetworkConfigurator
from openimds.linux.configure.ownership import OwnershipRecord
from openimds.netconfig.listener_file import ListenAddress
from openimds.netconfig.namespace_state import NamespaceState

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
monitor = HostMonitor()
kernel = NetworkConfigurator(OwnershipRecord(Path(sys.argv[1])), "lab", monitor)
probe = NamespaceProbe(kernel.handles)
monitor.start([], lambda: None, lambda: None)
watcher = ProcessExitWatcher(lambda _pids: None)
names = [f"small{n}" for n in range(40)]
for turn in range(2):
    for name in names:
        sysctls = {f"net.ipv4.conf.{where}.{key}": "1" for where in ("all", "default", "lo")
                   for key in ("arp_ignore", "arp_announce", "arp_filter", "arp_notify", "log_martians", "rp_filter")}
        with monitor.recording(name):
            made = kernel.apply(NamespaceState(name=name, sysctls=sysctls))
            assert bool(made) == (turn == 0), made
            probe.snapshot(name, [ListenAddress("127.0.0.1", 80)])
    watcher.watch([os.getpid()] + [int(pid) for pid in os.listdir("/proc") if pid.isdigit()][:80])
    assert len(os.listdir("/proc/self/fd")) < 60
for name in names:
    kernel.remove_namespace(name)
watcher.close()
monitor.close()
print("all of it is true")
"""


def test_low_descriptor_limit_is_sufficient_and_logged_once(tmp_path: Path) -> None:
    done = _in_a_host_of_its_own(SMALL_STORY, tmp_path)
    assert "all of it is true" in done.stdout, done.stderr + done.stdout
    assert (done.stdout + done.stderr).count("file descriptor budget exceeded") == 1


def _in_a_host_of_its_own(story: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "story.py"
    script.write_text(story)
    host = 'mount -t tmpfs none /run/netns; ip link set lo up; exec "$@"'
    argv = ["unshare", "--net", "--mount", "sh", "-c", host, "sh", sys.executable, str(script), str(tmp_path / "owned")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.run(argv, capture_output=True, text=True, timeout=HANG_SECONDS, check=False, env=environment)


def test_messages_from_other_senders_are_ignored(host: Host) -> None:
    """Root of a guest's namespace may send to every netlink socket in it."""
    desired = NamespaceState(name=host.namespace("guest"), owner_uid=200000)
    host.kernel.apply(desired)
    conversation = netns.run_in(desired.name, NetlinkSocket)
    with closing(conversation):
        lie = HEADER.pack(HEADER.size + 4, NLMSG_DONE, 0, 1, 0) + bytes(4)
        with (
            netns.run_in(desired.name, lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)) as forger,
            pytest.raises(ConnectionRefusedError),
        ):
            forger.sendto(lie, (conversation.port, 0))


def test_replaced_device_causes_an_event(host: Host, monitor: HostMonitor) -> None:
    """The same holds for its settings: the open files of the former device cannot be read any longer."""
    changes: list[frozenset[str]] = []
    kernel = NetworkConfigurator(host.ownership, host.prefix, monitor)
    kernel.ensure_bridge(Bridge(name=host.bridge(), mtu=1442))
    device = Device(
        name=host.tap(),
        host_name=host.tap(),
        bridge=host.bridge(),
        mac_address="fa:16:3e:0a:0b:0c",
        mtu=1442,
        addresses=frozenset({"192.168.40.1/24"}),
    )
    key = f"net.ipv4.conf.{device.name}.rp_filter"
    desired = NamespaceState(name=host.namespace("qrouter-1"), devices=(device,), sysctls={key: "1"})
    monitor.start([], lambda: changes.append(monitor.take()), lambda: None)
    for _ in range(2):
        with monitor.recording("r"):
            kernel.apply(desired)
        run(["ip", "link", "delete", device.host_name])
        with monitor.recording("r"):
            assert kernel.apply(desired)
        changes.clear()
        run(["sysctl", "-q", "-w", f"{key}=0"], namespace=desired.name)
        until(lambda: any("r" in keys for keys in changes))


def _link_names(host: Host, name: str) -> set[str]:
    with host.kernel.handles.open(name) as handle:
        return {link.name for link in handle.links()}


def test_handle_reads_the_replaced_namespace(host: Host) -> None:
    desired = NamespaceState(name=host.namespace("qrouter-1"))
    host.kernel.apply(desired)
    assert _link_names(host, desired.name) == {"lo"}
    run(["ip", "netns", "delete", desired.name])
    run(["ip", "netns", "add", desired.name])
    run(["ip", "link", "add", "new", "type", "bridge"], namespace=desired.name)
    assert _link_names(host, desired.name) == {"lo", "new"}


def test_route_contains_the_devices_current_name(host: Host) -> None:
    desired = NamespaceState(name=host.namespace("qrouter-1"))
    host.kernel.apply(desired)
    run(["ip", "link", "add", "before", "type", "bridge"], namespace=desired.name)
    run(["ip", "link", "set", "before", "up"], namespace=desired.name)
    run(["ip", "route", "add", "192.0.2.0/24", "dev", "before"], namespace=desired.name)
    with host.kernel.handles.open(desired.name) as handle:
        links = handle.links()
        assert [route.device for route in handle.routes(links) if route.destination == "192.0.2.0/24"] == ["before"]
        # Since Linux 6.2 a device can be renamed while it is up, and its routes stay.
        links = tuple(replace(link, name="after") if link.name == "before" else link for link in links)
        assert [route.device for route in handle.routes(links) if route.destination == "192.0.2.0/24"] == ["after"]


def test_failed_read_leaves_no_partial_response(host: Host) -> None:
    desired = NamespaceState(name=host.namespace("qrouter-1"))
    host.kernel.apply(desired)
    with pytest.raises(InterruptedError), host.kernel.handles.open(desired.name) as broken_off:
        raise InterruptedError
    with host.kernel.handles.open(desired.name) as handle:
        assert handle is not broken_off
    assert _link_names(host, desired.name) == {"lo"}


def test_kernel_without_sock_diag_is_read_from_proc(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    desired = NamespaceState(name=host.namespace("qdhcp-1"))
    host.kernel.apply(desired)

    def no_module(_family: int) -> Iterator[tuple[tuple[str, int], int]]:
        raise FileNotFoundError(2, "no tcp_diag")

    with netns.run_in(desired.name, lambda: socket.create_server(("127.0.0.1", 8080))) as made:
        inode = os.fstat(made.fileno()).st_ino
        monkeypatch.setattr(sock_diag, "_dump_listeners", no_module)
        sock_diag.has_sock_diag.cache_clear()
        try:
            probe = NamespaceProbe(host.kernel.handles)
            for port, inodes in ((8080, {("127.0.0.1", 8080): frozenset({inode})}), (8081, {})):
                assert probe.snapshot(desired.name, [ListenAddress("127.0.0.1", port)]).listening == inodes
        finally:
            sock_diag.has_sock_diag.cache_clear()


def test_rules_of_legacy_iptables_are_read_in_each_pass(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The generation of the nftables ruleset does not cover the rules of legacy iptables."""
    monkeypatch.setattr("openimds.linux.firewall.ruleset_cache.iptables_uses_nftables", lambda: False)
    desired = NamespaceState(name=host.namespace("qrouter-1"), ipv4_rules=Rules({"filter": ("-A INPUT -j ACCEPT",)}))
    assert host.kernel.apply(desired)
    assert host.kernel.apply(desired) == ()
    run(["iptables", "-F", "INPUT"], namespace=desired.name)
    assert host.kernel.apply(desired)


def test_interrupted_dump_is_repeated(host: Host) -> None:
    """Every list is consistent, also with a concurrent change."""
    desired = NamespaceState(name=host.namespace("qdhcp-1"))
    host.kernel.apply(desired)
    add = "for n in $(seq 100); do ip link add d$n type bridge && ip link delete d$n || exit; done"
    with subprocess.Popen(["ip", "netns", "exec", desired.name, "sh", "-c", add]) as changing:
        while changing.poll() is None:
            with host.kernel.handles.open(desired.name) as handle:
                names = [link.name for link in handle.links()]
            assert names[0] == "lo"
            assert len(names) <= 2
            assert len(set(names)) == len(names)
    assert changing.returncode == 0
