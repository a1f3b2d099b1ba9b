"""Exempts the tenants' bridged packets from the host's connection tracking.

With `net.bridge.bridge-nf-call-iptables = 1` (a host with Docker or Kubernetes) bridged packets also traverse the
host's IPv4 and IPv6 hooks and its single connection table. Two tenants with the same addresses and ports would share an
entry, so that packets of one could be attributed to the other. A table of our own therefore sets `notrack` for our
bridges, by name. Other bridges of the host are not affected.
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
    """The table, its set and its chain. Can be applied repeatedly."""
    return (
        f"add table inet {table}\n"
        f"add set inet {table} bridges {{ type ifname; }}\n"
        f"add chain inet {table} {CHAIN} {{ type filter hook prerouting priority raw; policy accept; }}\n"
        f"flush chain inet {table} {CHAIN}\n"
        f"add rule inet {table} {CHAIN} {NOTRACK_RULE}\n"
    )


class BridgeNotrack:
    """Adds bridges to the exemption. The set is read again after each change of the ruleset: others may flush it."""

    def __init__(self, prefix: str) -> None:
        self._table = table_name(prefix)
        self._exempt: set[str] = set()
        self._has_table = False
        self._reader = GenerationReader()
        self._lock = threading.Lock()

    @property
    def is_overdue(self) -> bool:
        """True if the last `add` postponed a read of the rules (`GenerationReader.is_overdue`)."""
        return self._reader.is_overdue

    def add(self, bridge: str) -> bool:
        """Exempts a bridge. Returns False if it is exempt already. Raises ProgramError."""
        with self._lock:
            self._refresh()
            if bridge in self._exempt:
                return False
            nft_apply(self._text_to_add(bridge))
            self._reader.count_own_change()
            self._has_table = True
            self._exempt.add(bridge)
            return True

    def remove(self, bridge: str) -> None:
        with self._lock:
            if self._list() is not None:
                element = f"inet {self._table} bridges {{ {bridge} }}"
                nft_apply(f"add element {element}\ndelete element {element}\n")
                self._reader.count_own_change()
            self._exempt.discard(bridge)

    def _refresh(self) -> None:
        if not self._reader.begin():
            return
        listing = self._list() or ""
        self._has_table = _is_complete(listing)
        self._exempt = set(re.findall(r'"([^"]+)"', listing)) if self._has_table else set()
        self._reader.finish()

    def _list(self) -> str | None:
        return nft_list("inet", self._table)

    def _text_to_add(self, bridge: str) -> str:
        element = f"add element inet {self._table} bridges {{ {bridge} }}\n"
        return element if self._has_table else table_text(self._table) + element


def _is_complete(listing: str) -> bool:
    """True if the chain has exactly the expected rule. nft prints its priority differently in each version."""
    first, *rules = chains_in(listing).get(CHAIN, ("",))
    return first.endswith("policy accept;") and rules == [NOTRACK_RULE]
