"""The host's port security table: read once a round, changed only where a port's chain differs."""

from __future__ import annotations

from openimds.linux.conntrack import table_name
from openimds.linux.firewall import nft_apply, nft_list
from openimds.wiring.port_security import PortFilter, chain_lines, chain_text, chains_in, removal_text, table_text

BASE_CHAIN = "prerouting"
BASE_LINES = ("type filter hook prerouting priority filter; policy accept;", "iifname vmap @instances")


class PortSecurityTable:
    """`prefix` is the option `namespace_prefix`. Not for several threads at once."""

    def __init__(self, prefix: str = "") -> None:
        self._table = table_name(prefix)
        self._as_listed: dict[tuple[str, ...], tuple[str, ...]] = {}
        """Another version of nft may spell our lines otherwise: what it said after we had set them."""

    def apply(self, wanted: tuple[PortFilter, ...]) -> tuple[str, ...]:
        """Every tap's chain is as wanted, those that are not wanted are gone; the changes made, in words.

        Each port is changed at once or not at all. Raises ProgramError.
        """
        listing = nft_list("bridge", self._table)
        found = chains_in(listing or "")
        if not wanted and listing is None:
            return ()
        done = self._restore_frame(found)
        for port in wanted:
            if not self._is_in_place(port, found, listing or ""):
                nft_apply(chain_text(self._table, port))
                done.append(f"set port security of {port.tap}")
        for tap in sorted(set(found) - {BASE_CHAIN} - {port.tap for port in wanted}):
            nft_apply(removal_text(self._table, tap))
            done.append(f"remove port security of {tap}")
        if done:
            self._learn_spelling(wanted)
        return tuple(done)

    def add(self, port: PortFilter) -> None:
        """One port's chain, before its device is plugged in. Raises ProgramError."""
        nft_apply(table_text(self._table) + chain_text(self._table, port))

    def taps(self) -> set[str]:
        """Those that have a chain."""
        return set(chains_in(nft_list("bridge", self._table) or "")) - {BASE_CHAIN}

    def _restore_frame(self, found: dict[str, tuple[str, ...]]) -> list[str]:
        if found.get(BASE_CHAIN) == BASE_LINES:
            return []
        nft_apply(table_text(self._table))
        return [f"set the table bridge {self._table}"]

    def _is_in_place(self, port: PortFilter, found: dict[str, tuple[str, ...]], listing: str) -> bool:
        lines = chain_lines(port)
        jumps = f'"{port.tap}" : jump {port.tap}' in listing
        return jumps and found.get(port.tap) in (lines, self._as_listed.get(lines))

    def _learn_spelling(self, wanted: tuple[PortFilter, ...]) -> None:
        found = chains_in(nft_list("bridge", self._table) or "")
        self._as_listed = {chain_lines(port): found[port.tap] for port in wanted if port.tap in found}
