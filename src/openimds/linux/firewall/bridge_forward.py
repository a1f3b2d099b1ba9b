"""Accepts packets between two instances on one bridge in the host's own firewall.

With `net.bridge.bridge-nf-call-iptables = 1` bridged packets also traverse the host's FORWARD chains, whose policy
Docker, ufw and others set to DROP. A verdict of another table cannot overrule that. If the policy is DROP, each bridge
therefore gets a rule at the top of the chain that accepts packets from the bridge to itself.

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
    """Adds the rules. The chains are read again when the host's rules or the two sysctls have changed."""

    def __init__(self) -> None:
        self._accepted: dict[str, set[str]] = {}
        """Program → bridges that have their rule. Programs whose chain drops no bridged packets are left out."""
        self._switches: tuple[str, ...] = ()
        self._reader = GenerationReader()
        self._lock = threading.Lock()

    @property
    def is_overdue(self) -> bool:
        """True if the last `add` postponed a read of the rules (`GenerationReader.is_overdue`)."""
        return bool(self._accepted) and self._reader.is_overdue

    def add(self, bridge: str) -> bool:
        """Adds the bridge's rules where they are missing. Returns True if a rule was added. Raises ProgramError."""
        with self._lock:
            self._refresh()
            needed = [program for program, bridges in self._accepted.items() if bridge not in bridges]
            for program in needed:
                run([program, "-w", "5", "-I", "FORWARD", *_rule(bridge)])
                self._reader.count_own_change()
                self._accepted[program].add(bridge)
            return bool(needed)

    def remove(self, bridge: str) -> None:
        """Removes the bridge's rules. Idempotent."""
        remove_rules([bridge])
        with self._lock:
            for bridges in self._accepted.values():
                bridges.discard(bridge)

    def _refresh(self) -> None:
        """Reads the chains again if necessary. Nothing is read if bridged packets do not traverse them."""
        switches = tuple(_switch(program) for program in SWITCHES)
        if "1" not in switches:
            self._switches, self._accepted = switches, {}
            return
        if not self._reader.begin() and switches == self._switches:
            return
        self._switches = switches
        self._accepted = {}
        for program in SWITCHES:
            chain = _forward_chain(program)
            if "-P FORWARD DROP" in chain:
                self._accepted[program] = set(_OURS.findall(chain))
        self._reader.finish()


def remove_rules(bridges: Iterable[str]) -> tuple[str, ...]:
    """Removes the rules of these bridges. Returns the bridges that had rules."""
    targets, found = set(bridges), set()
    for program in SWITCHES:
        for bridge in targets & set(_OURS.findall(_forward_chain(program))):
            with contextlib.suppress(ProgramError):  # another program has just removed it
                run([program, "-w", "5", "-D", "FORWARD", *_rule(bridge)])
            found.add(bridge)
    return tuple(sorted(found))


def _rule(bridge: str) -> list[str]:
    return ["-i", bridge, "-o", bridge, "-m", "comment", "--comment", COMMENT, "-j", "ACCEPT"]


def _forward_chain(program: str) -> str:
    """The rules of the FORWARD chain. Empty if bridged packets do not traverse the chain (bridge-nf-call-iptables)."""
    return run([program, "-w", "5", "-S", "FORWARD"]) if _switch(program) == "1" else ""


def _switch(program: str) -> str:
    """The sysctl that passes bridged packets to iptables. Empty if br_netfilter is not loaded."""
    try:
        return SWITCHES[program].read_text().strip()
    except FileNotFoundError:
        return ""
