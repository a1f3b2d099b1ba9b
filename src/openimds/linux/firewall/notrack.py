"""Keeps tenants' bridged packets out of the host's connection tracking.

With `net.bridge.bridge-nf-call-iptables = 1` (a host with Docker or Kubernetes) every packet that is bridged also passes
the host's IPv4/IPv6 hooks and its one connection table. Two tenants with the same addresses and ports would then share
an entry, and one's packets could be taken for the other's. An own nftables table says `notrack` for our bridges, by
name; other bridges of the host stay as they are.
"""

from __future__ import annotations

import re
import threading

from openimds.linux.firewall.iptables import nft_apply, nft_list
from openimds.linux.netlink.nft_genid import GenerationReader
from openimds.netconfig.port_security import chains_in


def table_name(prefix: str) -> str:
    """`openimds`, or `openimds_lab1` for the namespace prefix `lab1-`."""
    cleaned = re.sub(r"\W", "_", prefix).strip("_")
    return f"openimds_{cleaned}" if cleaned else "openimds"


CHAIN, NOTRACK_RULE = "untracked", "iifname @bridges notrack"


def table_text(table: str) -> str:
    """The frame; may be applied again at any time."""
    return (
        f"add table inet {table}\n"
        f"add set inet {table} bridges {{ type ifname; }}\n"
        f"add chain inet {table} {CHAIN} {{ type filter hook prerouting priority raw; policy accept; }}\n"
        f"flush chain inet {table} {CHAIN}\n"
        f"add rule inet {table} {CHAIN} {NOTRACK_RULE}\n"
    )


class BridgeNotrack:
    """Whether a bridge is exempt is asked of the kernel again when its ruleset was changed: others may flush it."""

    def __init__(self, prefix: str) -> None:
        self._table = table_name(prefix)
        self._exempt: set[str] = set()
        self._has_table = False
        self._generation = GenerationReader()
        self._lock = threading.Lock()

    @property
    def is_overdue(self) -> bool:
        """As of nft_generation.Reading, at the last `add`."""
        return self._generation.is_overdue

    def add(self, bridge: str) -> bool:
        """Whether anything had to be done. Raises ProgramError."""
        with self._lock:
            self._refresh()
            if bridge in self._exempt:
                return False
            nft_apply(self._text_to_add(bridge))
            self._generation.count_own_change()
            self._has_table = True
            self._exempt.add(bridge)
            return True

    def remove(self, bridge: str) -> None:
        with self._lock:
            if self._listed() is not None:
                element = f"inet {self._table} bridges {{ {bridge} }}"
                nft_apply(f"add element {element}\ndelete element {element}\n")
                self._generation.count_own_change()
            self._exempt.discard(bridge)

    def _refresh(self) -> None:
        if not self._generation.begin():
            return
        listed = self._listed() or ""
        self._has_table = _is_complete(listed)
        self._exempt = set(re.findall(r'"([^"]+)"', listed)) if self._has_table else set()
        self._generation.finish()

    def _listed(self) -> str | None:
        return nft_list("inet", self._table)

    def _text_to_add(self, bridge: str) -> str:
        element = f"add element inet {self._table} bridges {{ {bridge} }}\n"
        return element if self._has_table else table_text(self._table) + element


def _is_complete(listed: str) -> bool:
    """The chain does what it should and nothing else. How nft spells its priority depends on the version."""
    first, *rules = chains_in(listed).get(CHAIN, ("",))
    return first.endswith("policy accept;") and rules == [NOTRACK_RULE]
