"""A Debian system as a guest, with Debian's init, DHCP client, cloud-init and sshd.

The guest runs under systemd-nspawn and is a server of the `external` driver: a tap connects it to the network's bridge. All
resources of the guest end with one process. Its processes are in a PID namespace below that process, its network namespace has
no name, its mounts are in a mount namespace of its own, and its disk is in memory.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.system.cloud import run
from tests.waiting import HANG_SECONDS, INSTALL_SECONDS, until

ROOT_SCRIPT = Path(__file__).parents[3] / "scripts" / "make-debian-root"
BOOT_SCRIPT = Path(__file__).with_name("boot-guest")
CGROUP_PREFIX = "openimds-test-"
STALE_SECONDS = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Nic:
    tap: str
    """The name of the device on the host."""
    mac_address: str
    mtu: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DebianGuest:
    process: subprocess.Popen[bytes]
    console: Path

    def plug(self, nic: Nic) -> None:
        """Creates the guest's eth0 as the veth peer of the tap, in the guest's namespace."""
        peer = ["peer", "name", "eth0", "address", nic.mac_address, "mtu", str(nic.mtu), "netns", str(self._launched())]
        run(["ip", "link", "add", nic.tap, "mtu", str(nic.mtu), "type", "veth", *peer])

    def power_on(self) -> None:
        """Starts the boot, which waits for this call so that the NIC exists."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.close()

    def inside(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs a command as root in the guest."""
        entered = ["nsenter", f"--target={self._init_pid()}", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]
        return run([*entered, "--root", "--wd=/", "env", "-i", "PATH=/usr/sbin:/usr/bin", *argv], check=check)

    def read(self, path: str) -> str:
        return self.inside("cat", path).stdout

    def result(self) -> dict[str, Any]:
        """Waits until all stages of cloud-init have ended. Returns its result.json."""
        try:
            until(self._has_result, "cloud-init has ended")
        except AssertionError as error:
            error.add_note(self.diagnostics())
            raise
        found: dict[str, Any] = json.loads(self.read("/run/cloud-init/result.json"))["v1"]
        return found

    def diagnostics(self) -> str:
        """The warnings and errors of cloud-init. The console if the guest does not run."""
        if self.process.poll() is not None:
            return self.console.read_text(errors="replace")
        pattern = "WARNING|ERROR|Traceback|url_helper|DataSource|dhc"
        commands = (("cat", "/run/cloud-init/ds-identify.log"), ("grep", "-E", pattern, "/var/log/cloud-init.log"))
        try:
            return "\n".join(self.inside(*argv, check=False).stdout for argv in commands)
        except LookupError:
            return self.console.read_text(errors="replace")

    def _has_result(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"the guest has ended:\n{self.console.read_text(errors='replace')}")
        try:
            return self.inside("test", "-e", "/run/cloud-init/result.json", check=False).returncode == 0
        except LookupError:
            return False

    def _launched(self) -> int:
        """The PID of the first process in the guest's namespaces, which becomes nspawn."""
        until(lambda: len(children(self.process.pid)) == 1, "the guest's launcher runs")
        pid = children(self.process.pid)[0]
        until(lambda: b"waiting" in self.console.read_bytes(), "its namespaces are made")
        return pid

    def _init_pid(self) -> int:
        """The PID of the guest's init. Raises LookupError if it does not run yet."""
        for nspawn in children(self.process.pid):
            for init in children(nspawn):
                if Path(f"/proc/{init}/comm").read_text().strip() == "systemd":
                    return init
        raise LookupError("the guest's init does not run yet")


@contextmanager
def debian_guest(root: Path, console: Path, *arguments: str) -> Iterator[DebianGuest]:
    """A guest before `plug` and `power_on`. `arguments` are words of its kernel command line."""
    remove_stale_cgroups()
    cgroup = f"{CGROUP_PREFIX}{secrets.token_hex(4)}"
    # The process ends with its parent, also when the tests are killed. Its children end with the PID namespace.
    argv = ["setpriv", "--pdeathsig=KILL", "unshare", "--mount", "--net", "--pid", "--fork", "--kill-child=KILL",
            "--mount-proc", str(BOOT_SCRIPT), str(root), cgroup, *arguments]  # fmt: skip
    with console.open("wb") as output:
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield DebianGuest(process=process, console=console)
    finally:
        process.kill()
        process.wait(HANG_SECONDS)
        until(lambda: remove_cgroup(cgroup), "the guest's processes have ended")


def debian_root(suite: str) -> Path:
    """The root file system. It is built now, in about a minute, unless `make test` has built it."""
    return Path(run([str(ROOT_SCRIPT), suite], timeout_seconds=INSTALL_SECONDS).stdout.strip())


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def cgroup_root() -> Path:
    """The mount point of the host's cgroup v2 hierarchy."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return next(Path(mount[1]) for mount in mounts if mount[2] == "cgroup2")


def remove_cgroup(name: str) -> bool:
    """Removes a cgroup. False while it contains a process, True if it does not exist."""
    top = cgroup_root() / name
    try:
        for folder, _, _ in os.walk(top, topdown=False):
            Path(folder).rmdir()
    except OSError:
        return False
    return True


def remove_stale_cgroups() -> None:
    """Removes the empty cgroups of test runs that were killed."""
    for folder in cgroup_root().glob(f"{CGROUP_PREFIX}*"):
        if time.time() - folder.stat().st_mtime > STALE_SECONDS:
            remove_cgroup(folder.name)


def ssh(key: Path, address: str, command: str) -> list[str]:
    """The argv that runs a shell command in a guest by SSH."""
    options = ("BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "ConnectTimeout=5",
               "LogLevel=ERROR", "IdentitiesOnly=yes")  # fmt: skip
    named = [word for option in options for word in ("-o", option)]
    return ["ssh", "-F", "none", *named, "-i", str(key), f"debian@{address}", shlex.join(["sh", "-c", command])]
