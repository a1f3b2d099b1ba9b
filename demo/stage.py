"""What the story is told with: a command shown and run, a claim checked, a system that goes away at the end."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

COMMAND_TIMEOUT_SECONDS = 90
BIN = Path(sys.executable).parent


class StoryBrokenError(Exception):
    """A command of the story failed, or a claim in it is not true."""


@dataclass(slots=True)
class Stage:
    """Runs the story's commands with `env`, and keeps the claims that turned out untrue."""

    env: Mapping[str, str]
    untrue: list[str] = field(default_factory=list)
    held_back: list[str] | None = None
    """Lines of an aside, told when it is over; None: this stage speaks at once."""

    def aside(self) -> Stage:
        """A stage for what happens at the same time: its lines are held back until `tell`, so that none mix."""
        return Stage(self.env, self.untrue, [])

    def tell(self) -> None:
        """Speak the lines of this aside."""
        lines, self.held_back = self.held_back or [], None
        for line in lines:
            self.speak(line)

    def speak(self, line: str) -> None:
        if self.held_back is None:
            print(line, flush=True)
        else:
            self.held_back.append(line)

    def chapter(self, title: str) -> None:
        self.speak(f"\n\033[1;36m━━ {title}\033[0m")

    def say(self, text: str) -> None:
        self.speak(f"\033[2m{text}\033[0m")

    def run(self, command: str, *, show: Callable[[str], str] = str.strip, cloud: str | None = None) -> str:
        """Show `command`, run it, show its output through `show`; returns all of it. A failure ends the story."""
        shown = command.replace("openstack ", f"openstack --os-cloud {cloud} ", 1) if cloud else command
        self.speak(f"\033[1;33m$ {shown}\033[0m")
        result = self._execute(shown)
        if result.returncode != 0:
            raise StoryBrokenError(f"`{shown}` ended with {result.returncode}:\n{result.stdout}{result.stderr}".strip())
        text = show(result.stdout)
        if text:
            self.speak(text)
        return result.stdout

    def ask(self, command: str, *, cloud: str | None = None) -> str:
        """Run without showing: for what the story needs to know but nobody needs to read."""
        shown = command.replace("openstack ", f"openstack --os-cloud {cloud} ", 1) if cloud else command
        result = self._execute(shown)
        if result.returncode != 0:
            raise StoryBrokenError(f"`{shown}` ended with {result.returncode}:\n{result.stderr}".strip())
        return result.stdout.strip()

    def check(self, claim: str, holds: bool) -> None:
        """State a claim; an untrue one is remembered and makes the demo fail at its end."""
        self.speak(f"  \033[32m✓ {claim}\033[0m" if holds else f"  \033[31m✗ NOT TRUE: {claim}\033[0m")
        if not holds:
            self.untrue.append(claim)

    def wait_for(self, what: str, reached: Callable[[], bool], timeout_seconds: float = 60) -> None:
        """Ask again and again until it is so; the story is broken if that takes too long."""
        deadline = time.monotonic() + timeout_seconds
        while not reached():
            if time.monotonic() > deadline:
                raise StoryBrokenError(f"waited {timeout_seconds:.0f} s in vain for: {what}")
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


def story_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The caller's environment without its own cloud's variables, with this project's programs first on the path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OS_")}
    return kept | {"PATH": f"{BIN}:{os.environ['PATH']}:/usr/sbin:/sbin", "COLUMNS": "200"} | dict(extra)


def free_port(preferred: int) -> int:
    """`preferred` if nobody listens there, any free port otherwise."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise StoryBrokenError("no free TCP port on 127.0.0.1")


def machine_state() -> dict[str, Sequence[str]]:
    """What the demo must leave as it was: namespaces, devices, firewall, and programs that it could have started."""
    commands = {
        "namespaces": "ip netns list | cut -d' ' -f1 | sort",
        "devices": "ip -o link | cut -d: -f2 | cut -d@ -f1 | sort",
        "iptables": "iptables-save | grep -v '^[#:]' | sort",
        "nftables": "nft list tables | grep -v 'table ip6\\? \\(nat\\|mangle\\|filter\\|raw\\)$' | sort",
        "programs": "ps -eo args | grep -E '(^|/)(haproxy|dnsmasq|udhcpc) |bin/openimds ' | grep -v grep | sort",
    }
    return {
        name: subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=False).stdout.split("\n")
        for name, command in commands.items()
    }


def quoted(*words: str) -> str:
    return shlex.join(words)
