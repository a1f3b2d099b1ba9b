"""The host's port security table: read when the host's rules were changed, changed only where a port's chain differs."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from openimds.linux.firewall.iptables import nft_apply, nft_list
from openimds.linux.firewall.notrack import table_name
from openimds.linux.monitor.host_monitor import HostMonitor
from openimds.linux.netlink.nft_genid import GenerationReader
from openimds.netconfig.port_security import (
    SETS,
    PortFilter,
    chain_lines,
    chain_text,
    chains_in,
    removal_text,
    table_text,
)

BASE_CHAIN = "prerouting"
BASE_LINES = ("type filter hook prerouting priority filter; policy accept;", "iifname vmap @instances")


class PortSecurityTable:
    """`prefix` is the option `namespace_prefix`. `events` are told which chains are looked at."""

    def __init__(self, prefix: str = "", events: HostMonitor | None = None) -> None:
        self._events = events
        self._table = table_name(prefix)
        self._lock = threading.Lock()
        self._generation = GenerationReader()
        self._is_framed = False
        """The base chain is there and leads to the ports' own."""
        self._known: dict[str, tuple[str, ...]] = {}
        """By tap, the lines that are in force, as far as we know."""
        self._present: set[str] = set()
        """The taps that have a chain, in force or not."""
        self._as_listed: dict[tuple[str, ...], tuple[str, ...]] = {}
        """Another version of nft may spell our lines otherwise: what it said after we had set them."""

    def ensure(self, wanted: PortFilter) -> tuple[str, ...]:
        """One port's chain, before its device is plugged in; nothing is done when it is in place.

        Raises ProgramError.
        """
        if self._events:
            self._events.chain(wanted.tap)
            self._events.chain(BASE_CHAIN)
        with self._lock:
            self._refresh()
            return () if self._is_in_place(wanted) else (self._set(wanted),)

    def apply(self, wanted: Iterable[PortFilter]) -> tuple[str, ...]:
        """Every tap's chain is as wanted, those that are not wanted are gone; the changes made, in words.

        The kernel is asked, not believed. Each port is changed at once or not at all. Raises ProgramError.
        """
        ports = tuple(wanted)
        with self._lock:
            self._refresh()
            done = [self._set(port) for port in ports if not self._is_in_place(port)]
            done += [self._remove(tap) for tap in sorted(self._present - {port.tap for port in ports})]
            if done:
                self._learn_spelling(ports)
            return tuple(done)

    def remove(self, tap: str) -> tuple[str, ...]:
        """Its port is no more. Idempotent. Raises ProgramError."""
        with self._lock:
            self._refresh()
            if tap not in self._present:
                return ()
            return (self._remove(tap),)

    def taps(self) -> set[str]:
        """Those that have a chain. Raises ProgramError."""
        with self._lock:
            self._refresh()
            return set(self._present)

    def _refresh(self) -> None:
        if self._generation.begin():
            self._look()
            self._generation.finish()
        elif self._generation.is_overdue and self._events:
            self._events.look_again()

    def _look(self) -> None:
        listing = nft_list("bridge", self._table) or ""
        found = chains_in(listing)
        # Release 0.1 made the table without the sets.
        has_sets = all(f"\tset {name} {{" in listing for name in SETS)
        self._is_framed = framed = found.pop(BASE_CHAIN, None) == BASE_LINES and has_sets
        self._known = {tap: lines for tap, lines in found.items() if framed and f'"{tap}" : jump {tap}' in listing}
        self._present = set(found)

    def _is_in_place(self, port: PortFilter) -> bool:
        lines = chain_lines(port)
        known = self._known.get(port.tap)
        return known is not None and known in (lines, self._as_listed.get(lines))

    def _set(self, port: PortFilter) -> str:
        # The frame is everybody's: to touch it would call for a look at every port.
        frame = "" if self._is_framed else table_text(self._table)
        nft_apply(frame + chain_text(self._table, port))
        self._is_framed = True
        self._generation.count_own_change()
        self._known[port.tap] = chain_lines(port)
        self._present.add(port.tap)
        return f"set port security of {port.tap}"

    def _remove(self, tap: str) -> str:
        nft_apply(removal_text(self._table, tap))
        self._generation.count_own_change()
        self._known.pop(tap, None)
        self._present.discard(tap)
        return f"remove port security of {tap}"

    def _learn_spelling(self, ports: tuple[PortFilter, ...]) -> None:
        self._look()
        self._as_listed = {chain_lines(port): self._known[port.tap] for port in ports if port.tap in self._known}
