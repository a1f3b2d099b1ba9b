"""The number of a namespace's nftables ruleset: whoever changes any rule there makes it another one.

So rules that were read once need not be read again while the number is the same. iptables counts too, where it is the
one that writes nftables ("iptables v1.8.9 (nf_tables)"), as it is on every distribution of today.
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
    """Of the calling thread's namespace; None: this kernel cannot say."""
    try:
        answers = request((NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_GETGEN, 0, _NFGENMSG, protocol=NETLINK_NETFILTER)
    except OSError:
        return None
    number = parse_attributes(answers[0][1], len(_NFGENMSG)).get(NFTA_GEN_ID) if answers else None
    return int.from_bytes(number, "big") if number else None


@functools.cache
def iptables_uses_nftables() -> bool:
    """Whether a change by iptables makes the number another one."""
    try:
        return "nf_tables" in run(["iptables", "-V"])
    except ProgramError:
        return False


class GenerationReader:
    """When rules of the root namespace should be read again: when somebody changed any there, and for a tenth of the
    time at most. Not for two threads at once.
    """

    def __init__(self) -> None:
        self._generation: int | None = None
        self._begun: tuple[int | None, float] = (None, 0.0)
        self._next = 0.0
        self.is_overdue = False
        """Somebody has changed rules since the last reading, and it was too early for another."""

    def should_begin(self) -> bool:
        """A reading that is never said to have `ended` does not count."""
        now = ruleset_generation()
        is_as_read = now is not None and now == self._generation
        self.is_overdue = not is_as_read and time.monotonic() < self._next
        if is_as_read or self.is_overdue:
            return False
        self._begun = (now, time.monotonic())
        return True

    def ended(self) -> None:
        self._generation, began = self._begun
        self._next = time.monotonic() + PAUSE_PER_READ * (time.monotonic() - began)

    def note_own_change(self) -> None:
        """A transaction of our own that what was read is known to include, if nobody else's came between."""
        if self._generation is not None and ruleset_generation() == self._generation + 1:
            self._generation += 1
