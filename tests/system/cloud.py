"""A whole system under test, driven by its command lines as by an operator."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tests import janitor, waiting
from tests.openstack_client import run_openstack
from tests.waiting import HANG_SECONDS

BIN = Path(sys.executable).parent
CGROUPS = tuple(Path("/sys/fs/cgroup", controller) for controller in ("", "memory", "pids"))
METADATA_PROXIES = ("direct", "haproxy")
RELOADED = "configuration reloaded"


class CommandFailedError(AssertionError):
    """A command line that failed unexpectedly."""


@dataclass(slots=True, kw_only=True)
class Cloud:
    """The state folder, ports and prefix of one system."""

    state_dir: Path
    control_port: int
    metadata_port: int
    prefix: str
    extra: tuple[str, ...] = ()
    """Further options of `up`."""
    env: dict[str, str] = field(default_factory=dict)

    # The system -------------------------------------------------------------------------------------------------

    def up(self, *options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs `openimds up --detach` with this cloud's state folder, ports and prefix."""
        return self.openimds(
            "up", "--detach", "--control-port", str(self.control_port), "--metadata-port", str(self.metadata_port),
            "--namespace-prefix", self.prefix, *self.extra, *options, check=check,
        )  # fmt: skip

    def openimds(self, command: str, *options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs an `openimds` command that has the option --state-dir."""
        argv = [str(BIN / "openimds"), command, "--state-dir", str(self.state_dir), *options]
        return run(argv, env=self._environment(), timeout_seconds=HANG_SECONDS, check=check)

    def remove(self) -> None:
        """Stops the system in any state, and fails if a resource of it is left on the machine."""
        devices = self.devices()
        done = self.openimds("down", "--purge", check=False)
        shutil.rmtree(self.state_dir.parent, ignore_errors=True)
        if done.returncode != 0:
            raise CommandFailedError(done.stdout + done.stderr)
        janitor.unregister(self.state_dir)
        assert self.traces(devices) == []

    def devices(self) -> frozenset[str]:
        """The network devices of the root namespace in the agents' ownership record."""
        folder = self.state_dir / "owned" / "link"
        return frozenset(entry.name for entry in folder.iterdir()) if folder.exists() else frozenset()

    def traces(self, devices: frozenset[str]) -> list[str]:
        """The namespaces, `devices`, nftables tables, cgroups and processes of this system that exist on the machine.

        Resources of other systems are ignored, because test processes share the machine.
        """
        names = [line.split()[0] for line in shown("ip", "netns", "list")]
        links = {line.split(":")[1].strip().split("@")[0] for line in shown("ip", "-o", "link")}
        folder = str(self.state_dir.parent)
        return [
            *(f"namespace {name}" for name in names if name.startswith(self.prefix)),
            *(f"device {name}" for name in sorted(devices & links)),
            *(f"nft {table}" for table in shown("nft", "list", "tables") if self.prefix.rstrip("-") in table),
            *(f"cgroup {path}" for folder in CGROUPS for path in folder.glob(f"openimds_{self.prefix.rstrip('-')}*")),
            *(f"process {line}" for line in shown("ps", "-wweo", "pid,args") if folder in line),
        ]

    def part(self, name: str) -> dict[str, Any]:
        """The supervisor's status of a program: PID, state, restarts …"""
        status = json.loads((self.state_dir / "run" / "status.json").read_text())
        found: dict[str, Any] = next(part for part in status["parts"] if part["name"] == name)
        return found

    def supervisor_pid(self) -> int:
        return int((self.state_dir / "run" / "supervisor.pid").read_text().split()[0])

    def log(self, name: str) -> str:
        """The whole log of a program, including the file that `up` has rotated."""
        files = [self.state_dir / "log" / f"{name}.{ending}" for ending in ("log.1", "log")]
        return "".join(path.read_text(errors="replace") for path in files if path.exists())

    def choose_metadata_proxy(self, kind: str) -> None:
        """Sets the option `metadata_proxy` and reloads the agents, and waits until all listeners are of this kind."""
        file = self.state_dir / "etc" / "neutron.conf"
        file.write_text(re.sub(r"(?m)^metadata_proxy = .*$", f"metadata_proxy = {kind}", file.read_text()))
        self.reload("dhcp-agent", "l3-agent")
        other = {"direct": "conf", "haproxy": "json"}[kind]
        waiting.until(lambda: not self.proxy_files(other), f"every namespace has its {kind} listener")

    def reload(self, *parts: str) -> None:
        """Sends SIGHUP to the programs, and waits until each of them has reloaded its configuration."""
        before = {part: self.log(part).count(RELOADED) for part in parts}
        for part in parts:
            os.kill(self.part(part)["pid"], signal.SIGHUP)
        for part in parts:
            waiting.until(partial(self._has_reloaded, part, before[part]), f"{part} reloads its files")

    def _has_reloaded(self, part: str, before: int) -> bool:
        return self.log(part).count(RELOADED) > before

    def proxy_files(self, ending: str) -> list[str]:
        """The ids of the networks and routers with a HAProxy (`conf`) or with a direct listener (`json`)."""
        return sorted(path.stem for path in (self.state_dir / "ns-metadata-proxy").glob(f"*.{ending}"))

    # Clients ----------------------------------------------------------------------------------------------------

    def line(self, text: str, *, cwd: Path | None = None, check: bool = True, cloud: str = "openimds") -> str:
        """Runs a shell command line such as `openstack network create test1`. Returns stdout."""
        done = self._run_line(text, cwd, cloud)
        if check and done.returncode != 0:
            raise CommandFailedError(f"{text}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def json(self, text: str, *, cwd: Path | None = None) -> Any:
        """The decoded JSON output of an `openstack` command line."""
        return json.loads(self.line(f"{text} -f json", cwd=cwd))

    def refused(self, text: str, *, cwd: Path | None = None, cloud: str = "openimds") -> str:
        """Runs a command line that must fail. Returns stderr."""
        done = self._run_line(text, cwd, cloud)
        assert done.returncode != 0, f"{text} should have been refused:\n{done.stdout}"
        return done.stderr

    def _run_line(self, text: str, cwd: Path | None, cloud: str) -> subprocess.CompletedProcess[str]:
        words = shlex.split(text)
        if words[0] == "openstack" and not set("|&;<>$`*?~") & set(text):
            return run_openstack(words[1:], self._environment(cloud), cwd or Path.cwd())
        return run(["/bin/bash", "-c", text], env=self._environment(cloud), cwd=cwd, check=False)

    def inside(self, namespace: str, *argv: str, check: bool = True) -> str:
        """Runs a command in the namespace `qvm-…`, `qdhcp-…` or `qrouter-…`, named without the prefix. Returns stdout."""
        return run(["ip", "netns", "exec", f"{self.prefix}{namespace}", *argv], check=check).stdout

    def reaches(self, namespace: str, *argv: str) -> bool:
        """Whether a command in the namespace succeeds."""
        return run(["ip", "netns", "exec", f"{self.prefix}{namespace}", *argv], check=False).returncode == 0

    def console(self, server: str) -> str:
        return self.line(f"openstack console log show {shlex.quote(server)}")

    def disk(self, server_id: str) -> Path:
        """The disk of an instance of the netns driver."""
        return self.state_dir / "instances" / server_id / "disk.img"

    def wait_booted(self, server_id: str, hostname: str) -> None:
        """Waits until an instance of the netns driver has booted."""
        console = self.state_dir / "instances" / server_id / "console.log"
        waiting.until(
            lambda: console.exists() and f"{hostname} login:" in console.read_text(errors="replace"),
            f"{hostname} has booted",
        )

    def _environment(self, cloud: str = "openimds") -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("OS_")}
        return kept | {
            "PATH": f"{BIN}:{os.environ['PATH']}:/usr/sbin:/sbin",
            "OS_CLIENT_CONFIG_FILE": str(self.state_dir / "etc" / "clouds.yaml"),
            "OS_CLOUD": cloud,
        } | self.env  # fmt: skip


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_seconds: float = HANG_SECONDS,
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Runs a command. Raises CommandFailedError with the output if `check` is set and the command fails."""
    done = subprocess.run(
        list(argv), env=env, cwd=cwd, timeout=timeout_seconds, capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if check and done.returncode != 0:
        raise CommandFailedError(f"{shlex.join(argv)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def shown(*argv: str) -> list[str]:
    """The non-empty stdout lines of a command, which must succeed."""
    return [line.strip() for line in run(argv).stdout.splitlines() if line.strip()]
