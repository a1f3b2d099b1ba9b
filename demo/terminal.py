"""The terminal of the demo: shows and runs commands, checks claims, and finds what the demo left behind."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from openimds.linux.firewall.notrack import table_name

COMMAND_TIMEOUT_SECONDS = 90
BIN = Path(sys.executable).parent


class DemoError(Exception):
    """A command of the demo failed, or a wait timed out."""


@dataclass(slots=True)
class Terminal:
    """Runs commands with the environment `env`, prints them with their output, and collects failed checks."""

    env: Mapping[str, str]
    failed_checks: list[str] = field(default_factory=list)
    buffer: list[str] | None = None
    """Lines that `flush` prints. None if lines are printed immediately."""

    def buffered(self) -> Terminal:
        """Returns a terminal for a concurrent step. Its lines are kept until `flush`, so that they do not mix."""
        return Terminal(self.env, self.failed_checks, [])

    def flush(self) -> None:
        """Prints the lines of the buffer."""
        lines, self.buffer = self.buffer or [], None
        for line in lines:
            self.write(line)

    def write(self, line: str) -> None:
        if self.buffer is None:
            print(line, flush=True)
        else:
            self.buffer.append(line)

    def heading(self, title: str) -> None:
        self.write(f"\n\033[1;36m━━ {title}\033[0m")

    def comment(self, text: str) -> None:
        self.write(f"\033[2m{text}\033[0m")

    def run(self, command: str, *, show: Callable[[str], str] = str.strip, cloud: str | None = None) -> str:
        """Prints `command`, runs it, and prints its output through `show`. Returns the whole output. Raises DemoError."""
        shown = command.replace("openstack ", f"openstack --os-cloud {cloud} ", 1) if cloud else command
        self.write(f"\033[1;33m$ {shown}\033[0m")
        result = self._execute(shown)
        if result.returncode != 0:
            raise DemoError(f"`{shown}` ended with {result.returncode}:\n{result.stdout}{result.stderr}".strip())
        text = show(result.stdout)
        if text:
            self.write(text)
        return result.stdout

    def output(self, command: str, *, cloud: str | None = None) -> str:
        """Runs `command` without printing anything. Returns its output. Raises DemoError."""
        shown = command.replace("openstack ", f"openstack --os-cloud {cloud} ", 1) if cloud else command
        result = self._execute(shown)
        if result.returncode != 0:
            raise DemoError(f"`{shown}` ended with {result.returncode}:\n{result.stderr}".strip())
        return result.stdout.strip()

    def check(self, claim: str, holds: bool) -> None:
        """Prints a claim. The demo fails at its end if a claim does not hold."""
        self.write(f"  \033[32m✓ {claim}\033[0m" if holds else f"  \033[31m✗ FAILED: {claim}\033[0m")
        if not holds:
            self.failed_checks.append(claim)

    def wait_for(self, what: str, reached: Callable[[], bool], timeout_seconds: float = 60) -> None:
        """Polls `reached` until it is true. Raises DemoError after the timeout."""
        deadline = time.monotonic() + timeout_seconds
        while not reached():
            if time.monotonic() > deadline:
                raise DemoError(f"timed out after {timeout_seconds:.0f} s while waiting for: {what}")
            time.sleep(0.25)

    def _execute(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", "-c", command],
            env=dict(self.env),
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )


def demo_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment without variables of another cloud, and with this project's programs first in PATH."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OS_")}
    return kept | {"PATH": f"{BIN}:{os.environ['PATH']}:/usr/sbin:/sbin", "COLUMNS": "200"} | dict(extra)


def free_port(preferred: int) -> int:
    """Returns `preferred` if the port is free, otherwise any free port."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise DemoError("no free TCP port on 127.0.0.1")


def owned_devices(state_dir: Path) -> frozenset[str]:
    """The network devices of the root namespace in the agents' ownership record."""
    folder = state_dir / "owned" / "link"
    return frozenset(entry.name for entry in folder.iterdir()) if folder.exists() else frozenset()


def namespaces(prefix: str) -> frozenset[str]:
    """The namespaces on the machine whose names are those of networks, routers and instances with this prefix."""
    names = (line.split()[0] for line in _lines("ip", "netns", "list"))
    return frozenset(name for name in names if re.match(rf"{re.escape(prefix)}q(dhcp|router|vm)-", name))


def leftovers(folder: Path, prefix: str, devices: frozenset[str], earlier_namespaces: frozenset[str]) -> list[str]:
    """The resources of the demo that exist on the machine. Resources of other systems on the machine are ignored."""
    links = {line.split(":")[1].strip().partition("@")[0] for line in _lines("ip", "-o", "link")}
    return [
        *(f"namespace {name}" for name in sorted(namespaces(prefix) - earlier_namespaces)),
        *(f"device {name}" for name in sorted(devices & links)),
        *(f"nftables {line}" for line in _lines("nft", "list", "tables") if line.split()[-1] == table_name(prefix)),
        *(f"iptables {line}" for line in _lines("iptables-save") if any(f" {name} " in f"{line} " for name in devices)),
        *(f"process {line}" for line in _lines("ps", "-wweo", "pid,args") if str(folder) in line),
    ]


def _lines(*argv: str) -> list[str]:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def quoted(*words: str) -> str:
    return shlex.join(words)
