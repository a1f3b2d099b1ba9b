"""Keeps the host's own firewall from dropping what two instances on one bridge say to each other.

With `net.bridge.bridge-nf-call-iptables = 1` bridged packets pass the host's FORWARD chains too, and Docker, ufw and
others set these to DROP. A verdict of another table cannot overrule that, so one rule a bridge goes to the top of the
chain, where it is needed and only then: what comes from our bridge and stays on it passes.

    -A FORWARD -i brq2ca23c47-9d -o brq2ca23c47-9d -m comment --comment "openimds: bridged" -j ACCEPT
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from openimds.linux.errors import ProgramError
from openimds.linux.programs import run

CHECK_SECONDS = 5.0
COMMENT = "openimds: bridged"
SWITCHES = {
    "iptables": Path("/proc/sys/net/bridge/bridge-nf-call-iptables"),
    "ip6tables": Path("/proc/sys/net/bridge/bridge-nf-call-ip6tables"),
}

_OURS = re.compile(rf'-A FORWARD -i (\S+) -o \1 -m comment --comment "{COMMENT}" -j ACCEPT')


class BridgedForwarding:
    """The host's chains are looked at every few seconds at most."""

    def __init__(self) -> None:
        self._passing: dict[str, set[str]] = {}
        """By program, the bridges that have their rule; a program that is missing here drops nothing."""
        self._checked_at = -CHECK_SECONDS
        self._lock = threading.Lock()

    def add(self, bridge: str) -> bool:
        """Whether anything had to be done. Raises ProgramError."""
        with self._lock:
            self._refresh()
            needed = [program for program, passing in self._passing.items() if bridge not in passing]
            for program in needed:
                run([program, "-w", "5", "-I", "FORWARD", *_rule(bridge)])
                self._passing[program].add(bridge)
            return bool(needed)

    def remove(self, bridge: str) -> None:
        """Idempotent."""
        remove_rules([bridge])
        with self._lock:
            for passing in self._passing.values():
                passing.discard(bridge)

    def _refresh(self) -> None:
        if time.monotonic() - self._checked_at < CHECK_SECONDS:
            return
        self._checked_at = time.monotonic()
        self._passing = {}
        for program in SWITCHES:
            chain = _forward_chain(program)
            if "-P FORWARD DROP" in chain:
                self._passing[program] = set(_OURS.findall(chain))


def remove_rules(bridges: Iterable[str]) -> tuple[str, ...]:
    """Of these bridges, wherever there are any; the bridges that had some."""
    wanted, found = set(bridges), set()
    for program in SWITCHES:
        for bridge in wanted & set(_OURS.findall(_forward_chain(program))):
            with contextlib.suppress(ProgramError):  # somebody was faster
                run([program, "-w", "5", "-D", "FORWARD", *_rule(bridge)])
            found.add(bridge)
    return tuple(sorted(found))


def _rule(bridge: str) -> list[str]:
    return ["-i", bridge, "-o", bridge, "-m", "comment", "--comment", COMMENT, "-j", "ACCEPT"]


def _forward_chain(program: str) -> str:
    """Empty where bridged packets do not pass it."""
    try:
        if SWITCHES[program].read_text().strip() != "1":
            return ""
    except FileNotFoundError:
        return ""
    return run([program, "-w", "5", "-S", "FORWARD"])
