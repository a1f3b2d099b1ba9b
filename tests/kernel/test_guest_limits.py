"""Root of a guest cannot exhaust the host's memory, processes or disk, and cannot prevent the deletion of its guest."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.kernel.guest_network import MetadataStandIn, documents, serve_dhcp
from tests.kernel.stage import Host
from tests.kernel.test_driver import FIRST_UID, MAC, SERVER, SETTINGS, boot, console, guests_of, machine
from tests.waiting import until

from openimds.linux.configure.user_namespace import GUEST_KERNEL_LIMITS
from openimds.linux.errors import ProgramError
from openimds.linux.netns_driver import disk
from openimds.linux.netns_driver.bubblewrap import CONSOLE_COPIED_BYTES, CONSOLE_KEPT_BYTES, relay_command
from openimds.linux.netns_driver.cgroups import GuestCgroups
from openimds.linux.netns_driver.disk import DiskSettings
from openimds.linux.netns_driver.driver import OUTER_PROCESSES, NetnsDriver
from openimds.linux.process import by_namespace
from openimds.linux.process.daemons import run

pytestmark = pytest.mark.kernel

MIB = 1024 * 1024
MEMORY_MIB = 64


@contextmanager
def running(host: Host, script: str, *, memory_mib: int = MEMORY_MIB) -> Iterator[NetnsDriver]:
    """Boots a guest, and waits until its user data have ended."""
    dhcp = serve_dhcp(host, bridge=host.bridge(), leases={MAC: "192.168.40.5"})
    spec = replace(boot(machine(host)), memory_mib=memory_mib)
    guests = guests_of(host)
    with MetadataStandIn(dhcp, documents("vm1", f"#!/bin/bash\n{script}\n")).running():
        guests.start(spec)
        try:
            until(lambda: "user data: ended" in console(guests))
            yield guests
        finally:
            guests.remove(SERVER)
            guests.delete_removed()


def cgroup_value(host: Host, controller: str, name: str) -> int:
    found = Path("/sys/fs/cgroup", controller).glob(f"openimds_{host.prefix.rstrip('-')}/{SERVER}/{name}")
    return int(next(found).read_text())


def cgroup_folders(host: Host) -> list[Path]:
    pattern = f"openimds_{host.prefix.rstrip('-')}/*"
    roots = [Path("/sys/fs/cgroup", controller) for controller in ("", "memory", "pids")]
    return [path for root in roots for path in root.glob(pattern) if path.is_dir()]


@pytest.fixture
def controllers(host: Host) -> None:
    if GuestCgroups(host.prefix).missing:
        pytest.skip("this host has no cgroup controllers")


@pytest.mark.usefixtures("controllers")
def test_memory_of_a_guest_is_limited_with_its_tmpfs(host: Host) -> None:
    fill = "dd if=/dev/zero of=/run/fill bs=1M count=400 2>&1 | tail -1; du -m /run/fill; rm /run/fill"
    shm = "head -c 400M /dev/zero >/dev/shm/fill; rm -f /dev/shm/fill; echo after"
    hog = "head -c 400M /dev/zero | tail -c 390M | wc -c"
    with running(host, f"{fill}\n({shm})\n({hog})\necho survived") as guests:
        said = console(guests)
        assert "survived" in said
        assert "409600000" not in said
        assert cgroup_value(host, "memory", "memory.max_usage_in_bytes") <= MEMORY_MIB * MIB
        assert guests.state(SERVER) is not None


@pytest.mark.usefixtures("controllers")
def test_fork_bomb_leaves_the_number_of_its_processes_bounded(host: Host) -> None:
    bomb = "bomb() { bomb | bomb & }; bomb 2>/dev/null; sleep 1; echo bombed"
    with running(host, bomb) as guests:
        assert cgroup_value(host, "pids", "pids.current") <= SETTINGS.processes + OUTER_PROCESSES
        guests.stop(SERVER)
        assert by_namespace.processes_in(host.namespace("vm")) == set()
        assert cgroup_folders(host) == []


def test_disk_of_a_guest_is_limited_and_takes_nothing_more_of_the_host(host: Host) -> None:
    """A boot reserves the whole disk, so that a guest that fills it does not change the free space of the host."""
    script = (
        "for i in 1 2 3; do head -c 200M /dev/zero >/root/fill$i; done 2>&1 | tail -1\n"
        "df -m / | tail -1 | { read -r _ total used free _; echo total=$total free=$free; }\n"
        "i=0; while mkdir /root/d$i && i=$((i+1)); do :; done 2>&1; echo full"
    )
    with running(host, script) as guests:
        said = console(guests)
        assert "No space left on device" in said
        assert "free=0" in said
        image = host.state_path / "instances" / SERVER / disk.FILE_NAME
        assert image.stat().st_size == SETTINGS.disk.default_bytes
        assert abs(image.stat().st_blocks * 512 - SETTINGS.disk.default_bytes) < 2 * MIB


def test_disk_keeps_its_files_over_a_reboot(host: Host) -> None:
    with running(host, "touch /root/mark") as guests:
        guests.start(boot(host.namespace("vm"), 2, nics="eth0 auto\n"))
        (pid,) = guests.pids()
        assert Path(f"/proc/{pid}/root/root/mark").exists()


def test_guest_whose_disk_does_not_fit_beside_the_reserve_does_not_boot(host: Host) -> None:
    free = os.statvfs(host.state_path).f_bavail * os.statvfs(host.state_path).f_frsize
    settings = replace(SETTINGS, disk=DiskSettings(default_bytes=64 * MIB, reserved_bytes=free))
    guests = guests_of(host, settings)
    with pytest.raises(ProgramError, match="this host has no space for a disk of 64 MiB"):
        guests.start(boot(machine(host)))
    assert guests.state(SERVER) is None
    assert cgroup_folders(host) == []
    assert not list((host.state_path / "instances" / SERVER).glob("disk*"))


LIST_DESCRIPTORS = """
sleep 1000 &
sleep 0.3; for fd in /proc/$!/fd/*; do echo "descriptor: ${fd##*/} $(readlink $fd)"; done; kill $!
tr '\\0' '\\n' </proc/1/environ | sed 's/=.*//; s/^/variable: /'
"""


def test_guest_inherits_only_its_standard_descriptors(host: Host) -> None:
    """The guest had the open descriptor of its user namespace, by `nsenter`."""
    with running(host, LIST_DESCRIPTORS) as guests:
        lines = console(guests).splitlines()
        descriptors = [line.split()[1] for line in lines if line.startswith("descriptor: ")]
        assert descriptors == ["0", "1", "2"]
        variables = {line.split()[1] for line in lines if line.startswith("variable: ")}
        assert variables <= {
            *("PATH", "HOME", "TERM", "PWD"),
            *("METADATA_TRIES", "METADATA_DELAY_CENTISECONDS", "REQUEST_TIMEOUT_SECONDS"),
        }
        until(lambda: "login:" in console(guests))
        for pid in by_namespace.processes_in(host.namespace("vm")):
            targets = {str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()}
            assert not [target for target in targets if target.startswith(("user:", "net:", "mnt:"))]


HOSTILE_TREE = """
cd /root
python3 -c 'import os; [(os.mkdir("d"), os.chdir("d")) for _ in range(6000)]'
touch "$(printf 'a\\nb\\377')" -- -rf; ln -s / up; mkfifo fifo
touch locked && chattr +i locked 2>&1; ln locked hard; exec 9>open; (sleep 1000 9>&9 &) ; echo planted
"""


def test_deleted_guest_leaves_nothing_whatever_it_planted(host: Host) -> None:
    with running(host, HOSTILE_TREE) as guests:
        assert "planted" in console(guests)
        guests.remove(SERVER)
        assert guests.servers() == set()
        guests.delete_removed()
        assert list((host.state_path / "instances").iterdir()) == []
        assert cgroup_folders(host) == []
        until(lambda: str(host.state_path) not in run(["losetup", "--all"]))


def test_guest_is_deleted_while_another_process_uses_its_disk(host: Host) -> None:
    with running(host, "echo up") as guests:
        (pid,) = guests.pids()
        entered = ["nsenter", f"--target={pid}", "--mount", "sleep", "1000"]
        with subprocess.Popen(entered, stdin=subprocess.DEVNULL) as visitor:
            try:
                mounts = Path(f"/proc/{pid}/ns/mnt").stat().st_ino
                until(lambda: Path(f"/proc/{visitor.pid}/ns/mnt").stat().st_ino == mounts)
                guests.stop(SERVER)
                with pytest.raises(ProgramError, match="still uses"):
                    guests.start(boot(host.namespace("vm"), 2))
                guests.remove(SERVER)
                guests.delete_removed()
                assert list((host.state_path / "instances").iterdir()) == []
            finally:
                visitor.kill()


@pytest.mark.usefixtures("controllers")
def test_cgroup_that_a_killed_agent_left_is_removed_with_the_server(host: Host) -> None:
    cgroups = GuestCgroups(host.prefix)
    joined = cgroups.create(SERVER, memory_bytes=MEMORY_MIB * MIB, processes=8)
    with subprocess.Popen(["sleep", "1000"], stdin=subprocess.DEVNULL) as left:
        for file in joined:
            file.write_text(str(left.pid))
        guests = guests_of(host)
        assert guests.servers() == {SERVER}
        guests.remove(SERVER)
        assert guests.servers() == set()
        assert left.wait() == -9


INOTIFY = """
import ctypes, sys
libc = ctypes.CDLL(None)
created = 0
while created < int(sys.argv[1]) and libc.inotify_init1(0) >= 0:
    created += 1
print("inotify instances:", created, flush=True)
sys.stdin.readline()
"""


@contextmanager
def inotify_instances(prefix: Sequence[str], wanted: int) -> Iterator[int]:
    """Holds as many inotify instances as the kernel permits to a process that starts with `prefix`, up to `wanted`."""
    argv = [*prefix, "python3", "-c", INOTIFY, str(wanted)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        yield int(holder.stdout.readline().rpartition(" ")[2])
        holder.stdin.close()


def as_root_of(guests: NetnsDriver, *, uid: int = 0) -> list[str]:
    """Enters a guest with all capabilities of its root."""
    (pid,) = guests.pids()
    spaces = ("--user", "--net", "--mount", "--pid", "--uts", "--ipc")
    return ["nsenter", f"--target={pid}", *spaces, f"--setuid={uid}", f"--setgid={uid}", "--"]


def test_inotify_instances_of_a_guest_are_not_those_of_the_hosts_root(host: Host) -> None:
    """The kernel counted the instances of all users of a guest for root of the host, whose services then had none."""
    with running(host, "echo up") as guests:
        with inotify_instances([], 8) as possible:
            assert possible == 8
        users = [as_root_of(guests, uid=uid) for uid in (0, 1, 2)]
        with ExitStack() as held:
            totals = [held.enter_context(inotify_instances(user, 1000)) for user in users]
            assert 0 < sum(totals) <= GUEST_KERNEL_LIMITS["max_inotify_instances"]
            with inotify_instances([], 8) as left:
                assert left == 8


def test_root_of_a_guest_cannot_raise_its_limits_in_the_kernel(host: Host) -> None:
    """Root of a guest has CAP_SYS_RESOURCE in its user namespace, so it wrote the limits there."""
    with running(host, "echo up") as guests:
        raised = "for limit in /proc/sys/user/*; do echo 100000 >$limit; done; grep -H . /proc/sys/user/*"
        subprocess.run([*as_root_of(guests), "sh", "-c", raised], check=True, capture_output=True)
        attempt = subprocess.run([*as_root_of(guests), "unshare", "--user", "true"], check=False, capture_output=True)
        assert b"No space left on device" in attempt.stderr
        holder = "unshare --net sh -c 'exec sleep 1000 >/dev/null 2>&1' &"
        namespaces = f"i=0; while [ $i -lt 40 ]; do {holder} i=$((i+1)); done"
        made = [*as_root_of(guests), "sh", "-c", namespaces]
        refused = subprocess.run(made, check=True, capture_output=True, text=True).stderr
        assert refused.count("No space left on device") >= 40 - GUEST_KERNEL_LIMITS["max_net_namespaces"]


def test_console_is_bounded_while_no_agent_runs(host: Host) -> None:
    """Without an agent, the output of a guest filled the host's disk by 256 MiB."""
    chatter = (
        "head -c 20M /dev/zero | tr '\\0' 'x'; echo; head -c 400M /dev/zero >&1 | tail -c 1; ls -l /proc/self/fd/1"
    )
    with running(host, f"{chatter}\nfallocate -l 100M /proc/self/fd/1 2>&1 | tail -c 100\necho last words") as guests:
        file = guests.console_file(SERVER)
        until(lambda: "login:" in console(guests))
        assert "last words" in console(guests)
        assert file.stat().st_blocks * 512 <= 1024 * 1024
        assert file.stat().st_mode & 0o777 == 0o600


def test_console_keeps_each_of_many_short_lines(host: Host) -> None:
    """The console was truncated after 256 writes, however short they were."""
    with running(host, "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); echo line $i; done") as guests:
        lines = [line for line in console(guests).splitlines() if line.startswith("line ")]
        assert lines == [f"line {number}" for number in range(1, 2001)]


def test_console_keeps_its_end_when_it_is_shortened_and_when_the_guest_ends(host: Host) -> None:
    """The console was empty after the truncation, and after the end of the guest."""
    chatter = "head -c 3145728 /dev/zero | tr '\\0' 'x'; echo; echo last words"
    with running(host, chatter) as guests:
        until(lambda: "login:" in console(guests))
        guests.stop(SERVER)
        said = console(guests)
        assert "last words" in said
        assert said.count("x") >= CONSOLE_KEPT_BYTES - 1024
        assert len(said) <= MIB


@pytest.mark.parametrize("size", [0, 1, CONSOLE_COPIED_BYTES, 2 * CONSOLE_COPIED_BYTES, MIB + 7, 5 * MIB])
def test_console_relay_ends_with_its_input_and_keeps_the_end(tmp_path: Path, size: int) -> None:
    """At the end of the input the relay truncated the file once more."""
    console_file, content = tmp_path / "console.log", random.Random(size).randbytes(size)
    subprocess.run(relay_command(console_file, []), input=content, check=True)
    kept = console_file.read_bytes()
    assert content.endswith(kept)
    assert min(size, CONSOLE_KEPT_BYTES) <= len(kept) <= MIB
    assert sorted(tmp_path.iterdir()) == [console_file]


def test_console_relay_writes_each_byte_immediately(tmp_path: Path) -> None:
    console_file = tmp_path / "console.log"
    with subprocess.Popen(relay_command(console_file, []), stdin=subprocess.PIPE) as relay:
        assert relay.stdin is not None
        for count in range(1, 4):
            os.write(relay.stdin.fileno(), b"x")
            until(lambda: console_file.exists() and console_file.read_bytes() == b"x" * count)  # noqa: B023
        relay.stdin.close()


@pytest.mark.usefixtures("controllers")
def test_removal_of_a_system_leaves_the_guests_of_another_one(host: Host) -> None:
    cgroups = GuestCgroups(host.prefix)
    cgroups.create(SERVER, memory_bytes=MEMORY_MIB * MIB, processes=8)
    try:
        assert cgroups.remove_all({"another"}) == ()
        assert cgroups.names() == {SERVER}
    finally:
        assert cgroups.remove_all({SERVER}) == (f"cgroup of {SERVER}",)
    assert cgroup_folders(host) == []


def test_instance_of_an_earlier_version_keeps_its_folder_and_is_deleted_with_it(host: Host) -> None:
    rootfs = host.state_path / "instances" / SERVER / "rootfs"
    rootfs.mkdir(parents=True)
    os.chown(rootfs, FIRST_UID, FIRST_UID)
    plant = 'cd /root; python3 -c \'import os; [(os.mkdir("d"), os.chdir("d")) for _ in range(6000)]\''
    with running(host, plant) as guests:
        assert (rootfs / "root" / "d" / "d").is_dir()
        guests.remove(SERVER)
        guests.delete_removed()
        assert list((host.state_path / "instances").iterdir()) == []
