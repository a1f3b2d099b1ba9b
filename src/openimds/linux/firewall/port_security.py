"""The host's port security table. It is read when the host's rules have changed, and written only for changed ports."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable

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
    """The chains of all ports. `prefix` is the option `namespace_prefix`. `monitor` watches the chains that are read."""

    def __init__(self, prefix: str = "", monitor: HostMonitor | None = None) -> None:
        self._monitor = monitor
        self._table = table_name(prefix)
        self._lock = threading.Lock()
        self._reader = GenerationReader()
        self._has_base_chain = False
        """The base chain exists and dispatches to the chains of the ports."""
        self._in_force: dict[str, tuple[str, ...]] = {}
        """Tap → lines of its chain, if the chain is in force."""
        self._present: set[str] = set()
        """The taps that have a chain, in force or not."""
        self._as_listed: dict[tuple[str, ...], tuple[str, ...]] = {}
        """Our lines → the same lines as this version of nft prints them, read after they were set."""

    def ensure(self, desired: PortFilter) -> tuple[str, ...]:
        """Sets the chain of one port, before its device is plugged in. Returns descriptions of the changes.

        Raises ProgramError.
        """
        if self._monitor:
            self._monitor.watch_chain(desired.tap)
            self._monitor.watch_chain(BASE_CHAIN)
        with self._lock:
            self._refresh()
            return () if self._is_in_place(desired) else (self._set(desired),)

    def apply(self, desired: Iterable[PortFilter], kept: Collection[str] = ()) -> tuple[str, ...]:
        """Sets the chains of all ports and removes all others, except those of the taps `kept`. Returns descriptions of the changes.

        The kernel's state is read, not assumed. Each port is changed atomically. Raises ProgramError.
        """
        ports = tuple(desired)
        with self._lock:
            self._refresh()
            done = [self._set(port) for port in ports if not self._is_in_place(port)]
            done += [self._remove(tap) for tap in sorted(self._present - {port.tap for port in ports} - set(kept))]
            if done:
                self._read_spelling(ports)
            return tuple(done)

    def remove(self, tap: str) -> tuple[str, ...]:
        """Removes the chain of a port. Idempotent. Raises ProgramError."""
        with self._lock:
            self._refresh()
            if tap not in self._present:
                return ()
            return (self._remove(tap),)

    def taps(self) -> set[str]:
        """The taps that have a chain. Raises ProgramError."""
        with self._lock:
            self._refresh()
            return set(self._present)

    def _refresh(self) -> None:
        if self._reader.begin():
            self._read()
            self._reader.finish()
        elif self._reader.is_overdue and self._monitor:
            self._monitor.recheck()

    def _read(self) -> None:
        listing = nft_list("bridge", self._table) or ""
        found = chains_in(listing)
        # Release 0.1 created the table without the sets.
        has_sets = all(f"\tset {name} {{" in listing for name in SETS)
        self._has_base_chain = has_base_chain = found.pop(BASE_CHAIN, None) == BASE_LINES and has_sets
        self._in_force = {
            tap: lines for tap, lines in found.items() if has_base_chain and f'"{tap}" : jump {tap}' in listing
        }
        self._present = set(found)

    def _is_in_place(self, port: PortFilter) -> bool:
        lines = chain_lines(port)
        lines_in_force = self._in_force.get(port.tap)
        return lines_in_force is not None and lines_in_force in (lines, self._as_listed.get(lines))

    def _set(self, port: PortFilter) -> str:
        # All ports share the base chain. Changing it would require a read of all chains.
        base = "" if self._has_base_chain else table_text(self._table)
        nft_apply(base + chain_text(self._table, port))
        self._has_base_chain = True
        self._reader.count_own_change()
        self._in_force[port.tap] = chain_lines(port)
        self._present.add(port.tap)
        return f"set port security of {port.tap}"

    def _remove(self, tap: str) -> str:
        nft_apply(removal_text(self._table, tap))
        self._reader.count_own_change()
        self._in_force.pop(tap, None)
        self._present.discard(tap)
        return f"remove port security of {tap}"

    def _read_spelling(self, ports: tuple[PortFilter, ...]) -> None:
        self._read()
        self._as_listed = {chain_lines(port): self._in_force[port.tap] for port in ports if port.tap in self._in_force}
