"""The generation number of a namespace's nftables ruleset.

Every change of a rule increments the number, so rules that were read once are valid as long as it stays the same.
Changes by iptables count too if it is the nftables variant ("iptables v1.8.9 (nf_tables)"), the default of current
distributions.
"""

from __future__ import annotations

import functools
import socket
import struct
import time

from openimds.linux.errors import ProgramError
from openimds.linux.netlink.socket import NETLINK_NETFILTER, NFNL_SUBSYS_NFTABLES, parse_attributes, request
from openimds.linux.process.daemons import run

NFT_MSG_GETGEN = 16
NFTA_GEN_ID = 1
PAUSE_PER_READ = 9

_NFGENMSG = struct.pack("=BBH", socket.AF_UNSPEC, 0, 0)
"""struct nfgenmsg: family, version, resource."""


def ruleset_generation() -> int | None:
    """The generation number in the calling thread's namespace. None if the kernel does not report it."""
    try:
        replies = request((NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_GETGEN, 0, _NFGENMSG, protocol=NETLINK_NETFILTER)
    except OSError:
        return None
    number = parse_attributes(replies[0][1], len(_NFGENMSG)).get(NFTA_GEN_ID) if replies else None
    return int.from_bytes(number, "big") if number else None


@functools.cache
def iptables_uses_nftables() -> bool:
    """True if changes by iptables increment the generation number."""
    try:
        return "nf_tables" in run(["iptables", "-V"])
    except ProgramError:
        return False


class GenerationReader:
    """Decides when the rules of the root namespace are read again: after a change, and only as often as all reads together
    take at most a tenth of the time. Not thread-safe.
    """

    def __init__(self) -> None:
        self._generation: int | None = None
        self._started: tuple[int | None, float] = (None, 0.0)
        self._earliest = 0.0
        self.is_overdue = False
        """The rules have changed since they were last read, and the next read is not due yet."""

    def begin(self) -> bool:
        """True if the caller should read the rules now. The caller calls `finish` after a successful read."""
        now = ruleset_generation()
        is_current = now is not None and now == self._generation
        self.is_overdue = not is_current and time.monotonic() < self._earliest
        if is_current or self.is_overdue:
            return False
        self._started = (now, time.monotonic())
        return True

    def finish(self) -> None:
        self._generation, started = self._started
        self._earliest = time.monotonic() + PAUSE_PER_READ * (time.monotonic() - started)

    def count_own_change(self) -> None:
        """Counts one transaction of this process, after which the rules are not read again.

        They are read again if another program has changed rules at the same time.
        """
        if self._generation is not None and ruleset_generation() == self._generation + 1:
            self._generation += 1
