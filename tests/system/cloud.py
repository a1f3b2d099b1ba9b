"""A whole system under test, driven as a person drives it: by its command lines."""

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
from pathlib import Path
from typing import Any

from tests import janitor, waiting
from tests.waiting import HANG_SECONDS

BIN = Path(sys.executable).parent
METADATA_PROXIES = ("direct", "haproxy")
RELOADED = "the configuration was read again"


class LineFailedError(AssertionError):
    """A command line that should have worked."""


@dataclass(slots=True, kw_only=True)
class Cloud:
    state_dir: Path
    control_port: int
    metadata_port: int
    prefix: str
    extra: tuple[str, ...] = ()
    """More options of `up`."""
    env: dict[str, str] = field(default_factory=dict)

    # The system -------------------------------------------------------------------------------------------------

    def up(self, *options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`openimds up --detach` with this cloud's folder, ports and prefix."""
        return self.openimds(
            "up", "--detach", "--control-port", str(self.control_port), "--metadata-port", str(self.metadata_port),
            "--namespace-prefix", self.prefix, *self.extra, *options, check=check,
        )  # fmt: skip

    def openimds(self, command: str, *options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Any command that takes --state-dir."""
        argv = [str(BIN / "openimds"), command, "--state-dir", str(self.state_dir), *options]
        return run(argv, env=self._environment(), timeout_seconds=HANG_SECONDS, check=check)

    def remove(self) -> None:
        """Take everything down, whatever state it is in, and look for what stays on the machine."""
        devices = self.devices()
        done = self.openimds("down", "--purge", check=False)
        shutil.rmtree(self.state_dir.parent, ignore_errors=True)
        if done.returncode != 0:
            raise LineFailedError(done.stdout + done.stderr)
        janitor.unregister(self.state_dir)
        assert self.traces(devices) == []

    def devices(self) -> frozenset[str]:
        """The devices in the root namespace that the agents noted as theirs."""
        folder = self.state_dir / "owned" / "link"
        return frozenset(entry.name for entry in folder.iterdir()) if folder.exists() else frozenset()

    def traces(self, devices: frozenset[str]) -> list[str]:
        """What of this system is on the machine: namespaces, `devices`, firewall tables, processes.

        Only this system's own: others may come and go on the same machine meanwhile.
        """
        names = [line.split()[0] for line in shown("ip", "netns", "list")]
        links = {line.split(":")[1].strip().split("@")[0] for line in shown("ip", "-o", "link")}
        folder = str(self.state_dir.parent)
        return [
            *(f"namespace {name}" for name in names if name.startswith(self.prefix)),
            *(f"device {name}" for name in sorted(devices & links)),
            *(f"nft {table}" for table in shown("nft", "list", "tables") if self.prefix.rstrip("-") in table),
            *(f"process {line}" for line in shown("ps", "-wweo", "pid,args") if folder in line),
        ]

    def part(self, name: str) -> dict[str, Any]:
        """What the supervisor notes of a part: pid, state, restarts …"""
        status = json.loads((self.state_dir / "run" / "status.json").read_text())
        found: dict[str, Any] = next(part for part in status["parts"] if part["name"] == name)
        return found

    def supervisor_pid(self) -> int:
        return int((self.state_dir / "run" / "supervisor.pid").read_text().split()[0])

    def log(self, name: str) -> str:
        """All of it: of a large one `up` makes an older file."""
        files = [self.state_dir / "log" / f"{name}.{ending}" for ending in ("log.1", "log")]
        return "".join(path.read_text(errors="replace") for path in files if path.exists())

    def choose_metadata_proxy(self, kind: str) -> None:
        """As an operator does it on a running system: the option, SIGHUP to the agents that heed it. Until it is so."""
        file = self.state_dir / "etc" / "neutron.conf"
        file.write_text(re.sub(r"(?m)^metadata_proxy = .*$", f"metadata_proxy = {kind}", file.read_text()))
        self.reload("dhcp-agent", "l3-agent")
        other = {"direct": "conf", "haproxy": "json"}[kind]
        waiting.until(lambda: not self.proxy_files(other), f"every namespace has its {kind} listener")

    def reload(self, *parts: str) -> None:
        """SIGHUP, and until each of them has its configuration anew."""
        said = {part: self.log(part).count(RELOADED) for part in parts}
        for part in parts:
            os.kill(self.part(part)["pid"], signal.SIGHUP)
        for part in parts:
            waiting.until(
                lambda part=part: self.log(part).count(RELOADED) > said[part], f"{part} reads its files again"
            )  # type: ignore[misc]

    def proxy_files(self, ending: str) -> list[str]:
        """The networks and routers whose namespaces have a HAProxy (`conf`), or whom the agent listens for (`json`)."""
        return sorted(path.stem for path in (self.state_dir / "ns-metadata-proxy").glob(f"*.{ending}"))

    # Its users --------------------------------------------------------------------------------------------------

    def line(self, text: str, *, cwd: Path | None = None, check: bool = True, cloud: str = "openimds") -> str:
        """A command line as a person types it (`openstack network create test1`); what it wrote to stdout."""
        argv = ["/bin/bash", "-c", text]
        return run(argv, env=self._environment(cloud), cwd=cwd, check=check).stdout

    def json(self, text: str, *, cwd: Path | None = None) -> Any:
        """The answer to an `openstack` line, as values."""
        return json.loads(self.line(f"{text} -f json", cwd=cwd))

    def refused(self, text: str, *, cwd: Path | None = None, cloud: str = "openimds") -> str:
        """What a line that must fail wrote to stderr."""
        done = run(["/bin/bash", "-c", text], env=self._environment(cloud), cwd=cwd, check=False)
        assert done.returncode != 0, f"{text} should have been refused:\n{done.stdout}"
        return done.stderr

    def inside(self, namespace: str, *argv: str, check: bool = True) -> str:
        """What a command says inside `qvm-…`, `qdhcp-…` or `qrouter-…` (without this cloud's prefix)."""
        return run(["ip", "netns", "exec", f"{self.prefix}{namespace}", *argv], check=check).stdout

    def reaches(self, namespace: str, *argv: str) -> bool:
        """Whether a command inside succeeds."""
        return run(["ip", "netns", "exec", f"{self.prefix}{namespace}", *argv], check=False).returncode == 0

    def console(self, server: str) -> str:
        return self.line(f"openstack console log show {shlex.quote(server)}")

    def wait_booted(self, server_id: str, hostname: str) -> None:
        """An instance of the netns driver: its boot is over."""
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
    """Run a command; its output is part of the error when it fails."""
    done = subprocess.run(
        list(argv), env=env, cwd=cwd, timeout=timeout_seconds, capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if check and done.returncode != 0:
        raise LineFailedError(f"{shlex.join(argv)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def shown(*argv: str) -> list[str]:
    """The lines that a command shows. One that fails shows nothing, and is an error."""
    return [line.strip() for line in run(argv).stdout.splitlines() if line.strip()]
