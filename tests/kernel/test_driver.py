"""An instance of the netns driver boots as cirros does, and cannot affect the host."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.kernel.guest_network import KEY, SERVER_IP, MetadataStandIn, documents, serve_dhcp
from tests.kernel.stage import Host
from tests.waiting import until

from openimds.linux.errors import ProgramError
from openimds.linux.netns_driver.bubblewrap import GuestSettings
from openimds.linux.netns_driver.cgroups import GuestCgroups
from openimds.linux.netns_driver.driver import NetnsDriver
from openimds.linux.process import by_namespace
from openimds.linux.process.daemons import run
from openimds.netconfig.namespace_state import Bridge, Device, NamespaceState
from openimds.netconfig.netns_instance import BootSpec, BootState

pytestmark = pytest.mark.kernel

FIRST_UID = 231072
SETTINGS = GuestSettings(
    first_uid=FIRST_UID,
    metadata_tries=2,
    metadata_delay_seconds=0.1,
    request_timeout_seconds=2,
    memory_bytes=512 * 1024 * 1024,
    processes=64,
)
MAC = "fa:16:3e:00:00:05"
SERVER = "11111111-0000-4000-8000-000000000000"


def guests_of(host: Host, settings: GuestSettings = SETTINGS) -> NetnsDriver:
    return NetnsDriver(host.state_path / "instances", settings, GuestCgroups(host.prefix))


def machine(host: Host, name: str = "vm", mac: str = MAC, tap: int = 5) -> str:
    """An instance's namespace with one NIC."""
    device = Device(
        name="eth0", host_name=host.tap(tap), bridge=host.bridge(), mac_address=mac, mtu=1442, addresses=None
    )
    host.kernel.ensure_bridge(Bridge(name=host.bridge(), mtu=1442))
    desired = NamespaceState(name=host.namespace(name), devices=(device,), routes=None, owner_uid=FIRST_UID)
    host.kernel.apply(desired)
    return desired.name


def boot(namespace: str, generation: int = 1, nics: str = "eth0 dhcp4\n", server_id: str = SERVER) -> BootSpec:
    return BootSpec(server_id=server_id, generation=generation, namespace=namespace, nics=nics)


def console(guests: NetnsDriver, server_id: str = SERVER) -> str:
    return guests.console_file(server_id).read_text()


@contextmanager
def booted(host: Host, answers: dict[str, str]) -> Iterator[NetnsDriver]:
    """Waits until the instance has booted, through DHCP and metadata, up to its login prompt."""
    dhcp = serve_dhcp(host, bridge=host.bridge(), leases={MAC: "192.168.40.5"})
    namespace = machine(host)
    guests = guests_of(host)
    with MetadataStandIn(dhcp, answers).running():
        guests.start(boot(namespace))
        try:
            until(lambda: "login:" in console(guests))
            yield guests
        finally:
            guests.stop(SERVER)


def test_boots_through_dhcp_and_metadata(host: Host) -> None:
    with booted(host, documents("vm1")) as guests:
        said = console(guests)
        assert "successful after 1/2 tries: up 0." in said
        assert "iid=i-0000002a" in said
        assert "user data says: vm1 0" in said
        assert f"authorized key 0: {KEY}" in said
        assert said.endswith("vm1 login:\n")
        assert guests.state(SERVER) == BootState(1, running=True)
        routes = run(["ip", "route"], namespace=host.namespace("vm"))
        assert f"169.254.169.254 via {SERVER_IP} dev eth0" in routes
        assert "default via 192.168.40.1 dev eth0" in routes
        assert "mtu 1400" in run(["ip", "link", "show", "eth0"], namespace=host.namespace("vm"))
        (pid,) = guests.pids()
        rootfs = Path(f"/proc/{pid}/root")
        assert (rootfs / "root/.ssh/authorized_keys").read_text() == KEY + "\n"
        assert (rootfs / "etc/resolv.conf").read_text() == "nameserver 192.168.40.3\n"
        assert (rootfs / "root").stat().st_uid == FIRST_UID
        assert "vm1" not in os.uname().nodename


def test_boot_without_metadata_gives_up_after_the_configured_tries(host: Host) -> None:
    namespace = machine(host)
    guests = guests_of(host)
    guests.start(boot(namespace, nics="eth0 static 192.168.40.5/24 192.168.40.1\n"))
    until(lambda: "login:" in console(guests))
    said = console(guests)
    assert "failed 1/2: up" in said
    assert "failed 2/2: up" in said
    assert "failed to read iid from metadata. tried 2" in said
    assert "ip-route:default via 192.168.40.1 dev eth0" in said
    guests.stop(SERVER)


HOSTILE = """#!/bin/sh
try() {{ if eval "$2" >/dev/null 2>&1; then echo "BROKEN OUT: $1"; else echo "kept in: $1"; fi; }}
try "read the state folder" "ls {state}"
try "read its secrets" "cat {state}/secret"
try "read the host's shadow file" "grep root: /etc/shadow"
try "write to /usr" "touch /usr/openimds-was-here"
try "set a kernel switch" "echo 1 > /proc/sys/kernel/panic"
try "trigger sysrq" "echo s > /proc/sysrq-trigger"
try "kill the host's process" "kill -0 {victim}"
try "see the host's processes" "ls /proc/{victim}/ns"
try "mount" "mount -t tmpfs none /mnt"
try "make a user namespace" "unshare --user --map-root-user true"
try "enter the host's network" "nsenter --net=/proc/1/ns/net ip link show eth0 && ip link show brq"
try "make a device node" "mknod /tmp/disk b 254 0"
try "load a module" "insmod /dev/null"
try "change its own NIC" "ip link set eth0 address 02:00:00:00:00:01"
try "send raw packets" "busybox arping -c 1 -w 1 -I eth0 192.168.40.1; [ \\$? -ne 1 ]"
try "read the host's log" "dmesg -c"
ln -sf {state}/secret /etc/passwd; ln -sfn {state} /root/.ssh
echo "ended"
"""


def test_user_data_cannot_touch_the_host(host: Host) -> None:
    host.state_path.chmod(0o711)
    (host.state_path / "secret").write_text("secret of the host")
    script = HOSTILE.format(state=host.state_path, victim=os.getpid())
    with booted(host, documents("vm1", script)) as guests:
        said = console(guests)
        assert "BROKEN OUT" not in said, said
        assert said.count("kept in:") == 16
        assert "ended" in said
        (pid,) = guests.pids()
        assert Path(f"/proc/{pid}/uid_map").read_text().split() == ["0", str(FIRST_UID), "65536"]
        # the symbolic links that it planted do not affect the trusted part of the next boot, nor the host
        guests.start(boot(host.namespace("vm"), 2))
        until(lambda: "login:" in console(guests))
        assert (host.state_path / "secret").read_text() == "secret of the host"
        assert not (host.state_path / "authorized_keys").exists()


def test_fork_bomb_is_limited_to_its_guest(host: Host) -> None:
    script = "#!/bin/bash\nn=0; while [ $n -lt 500 ]; do sleep 60 & n=$((n+1)); done 2>/dev/null; echo\n"
    dhcp = serve_dhcp(host, bridge=host.bridge(), leases={MAC: "192.168.40.5"})
    guests = guests_of(host)
    namespace = machine(host)
    with MetadataStandIn(dhcp, documents("vm1", script)).running():
        guests.start(boot(namespace))
        until(lambda: "user data: running" in console(guests))
        until(lambda: len(by_namespace.processes_in(namespace)) > 40)
        run(["true"])
        assert len(by_namespace.processes_in(namespace)) <= SETTINGS.processes + 2
        guests.stop(SERVER)
        until(lambda: not by_namespace.processes_in(namespace))


def test_a_guest_outlives_its_agent_and_is_found_again(host: Host) -> None:
    namespace = machine(host)
    guests = guests_of(host)
    guests.start(boot(namespace, 7, nics="eth0 auto\n"))
    assert guests_of(host).state(SERVER) == BootState(7, running=True)
    until(lambda: "login:" in console(guests))
    assert guests_of(host).stop(SERVER)
    assert not guests_of(host).stop(SERVER)
    assert guests.state(SERVER) == BootState(7, running=False)
    until(lambda: by_namespace.processes_in(namespace) == set())
    guests.remove(SERVER)
    guests.remove(SERVER)
    assert guests.state(SERVER) is None
    assert guests.servers() == set()


def test_reused_pid_is_not_taken_for_a_guest(host: Host) -> None:
    folder = host.state_path / "instances" / SERVER
    folder.mkdir(parents=True)
    (folder / "boot.pid").write_text(f"{os.getpid()} 1 3\n")
    guests = guests_of(host)
    assert guests.state(SERVER) == BootState(3, running=False)
    assert not guests.stop(SERVER)


def test_a_reboot_ends_the_old_boot(host: Host) -> None:
    namespace = machine(host)
    guests = guests_of(host)
    guests.start(boot(namespace, 1, nics="eth0 auto\n"))
    old = by_namespace.processes_in(namespace)
    guests.start(boot(namespace, 2, nics="eth0 auto\n"))
    assert guests.state(SERVER) == BootState(2, running=True)
    until(lambda: not old & by_namespace.processes_in(namespace))
    guests.stop(SERVER)


def test_a_guest_that_ends_by_itself_counts_as_stopped(host: Host) -> None:
    namespace = machine(host)
    guests = guests_of(host)
    guests.start(boot(namespace, nics="eth0 auto\n"))
    until(lambda: "login:" in console(guests))
    (pid,) = guests.pids()
    os.kill(pid, signal.SIGKILL)
    until(lambda: guests.state(SERVER) == BootState(1, running=False))
    assert guests.pids() == set()
    guests.stop(SERVER)  # its cgroup stays until then


def test_guest_does_not_start_in_a_namespace_of_the_host(host: Host) -> None:
    namespace = host.namespace("plain")
    host.kernel.apply(NamespaceState(name=namespace))
    with pytest.raises(ProgramError, match="owned by the host's user namespace"):
        guests_of(host).start(boot(namespace))
