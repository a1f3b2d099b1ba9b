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
from collections.abc import Iterable
from pathlib import Path

from openimds.linux.errors import ProgramError
from openimds.linux.netlink.nft_genid import GenerationReader
from openimds.linux.process.daemons import run

COMMENT = "openimds: bridged"
SWITCHES = {
    "iptables": Path("/proc/sys/net/bridge/bridge-nf-call-iptables"),
    "ip6tables": Path("/proc/sys/net/bridge/bridge-nf-call-ip6tables"),
}

_OURS = re.compile(rf'-A FORWARD -i (\S+) -o \1 -m comment --comment "{COMMENT}" -j ACCEPT')


class BridgeForwardRule:
    """The host's chains are read again when its rules or the two switches were changed."""

    def __init__(self) -> None:
        self._passing: dict[str, set[str]] = {}
        """By program, the bridges that have their rule; a program that is missing here drops nothing."""
        self._switches: tuple[str, ...] = ()
        self._generation = GenerationReader()
        self._lock = threading.Lock()

    @property
    def is_overdue(self) -> bool:
        """As of nft_generation.Reading, at the last `add`."""
        return bool(self._passing) and self._generation.is_overdue

    def add(self, bridge: str) -> bool:
        """Whether anything had to be done. Raises ProgramError."""
        with self._lock:
            self._refresh()
            needed = [program for program, passing in self._passing.items() if bridge not in passing]
            for program in needed:
                run([program, "-w", "5", "-I", "FORWARD", *_rule(bridge)])
                self._generation.count_own_change()
                self._passing[program].add(bridge)
            return bool(needed)

    def remove(self, bridge: str) -> None:
        """Idempotent."""
        remove_rules([bridge])
        with self._lock:
            for passing in self._passing.values():
                passing.discard(bridge)

    def _refresh(self) -> None:
        """Nothing is read where bridged packets pass no chain at all."""
        switches = tuple(_switch(program) for program in SWITCHES)
        if "1" not in switches:
            self._switches, self._passing = switches, {}
            return
        if not self._generation.begin() and switches == self._switches:
            return
        self._switches = switches
        self._passing = {}
        for program in SWITCHES:
            chain = _forward_chain(program)
            if "-P FORWARD DROP" in chain:
                self._passing[program] = set(_OURS.findall(chain))
        self._generation.finish()


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
    return run([program, "-w", "5", "-S", "FORWARD"]) if _switch(program) == "1" else ""


def _switch(program: str) -> str:
    """Empty: this kernel has no filter for bridged packets loaded."""
    try:
        return SWITCHES[program].read_text().strip()
    except FileNotFoundError:
        return ""
