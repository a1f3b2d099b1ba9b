"""Rules of namespaces as they were read last: true for as long as nobody changes the ruleset, also in the next process.

What tells a ruleset from any other: the boot, the namespace's cookie (no two of one boot have the same, unlike inodes,
which are used again), and the number of the ruleset in it (nft_generation.py).
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from openimds.linux.firewall.iptables import read_rules
from openimds.linux.netlink.nft_genid import iptables_uses_nftables, ruleset_generation
from openimds.linux.netns import netns
from openimds.netconfig.diff import Family
from openimds.netconfig.namespace_state import Rules

SO_NETNS_COOKIE = 71
"""asm-generic/socket.h, since Linux 5.14; Python does not name it."""
COOKIE_BYTES = 8
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Ruleset:
    """Of one namespace, as it was at some moment of this boot. Equal ones have the same rules."""

    cookie: int
    """Where the kernel has none: minus the namespace's inode, which says nothing to the next process."""
    generation: int


def ruleset_here() -> Ruleset | None:
    """Of the calling thread's namespace; None: this kernel cannot say, or iptables is not the one that counts."""
    generation = ruleset_generation() if iptables_uses_nftables() else None
    if generation is None:
        return None
    return Ruleset(_cookie_here() or -netns.current_identity()[1], generation)


def _cookie_here() -> int | None:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as here:
            cookie = here.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, COOKIE_BYTES)
    except OSError:  # before Linux 5.14
        return None
    return int.from_bytes(cookie, sys.byteorder)


class RulesetCache:
    """For one thread at a time, and one process for each namespace."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder`: where the next process finds what was read, a file a namespace; None: it reads anew."""
        self._folder = folder
        self._known: dict[str, tuple[Ruleset, Mapping[Family, Rules]]] = {}

    def rules(self, name: str, families: Collection[Family], ruleset: Ruleset | None) -> Mapping[Family, Rules]:
        """`ruleset`: as it was before this call; None: nobody knows, and everything is read."""
        if ruleset is None:
            return {family: read_rules(name, family) for family in families}
        if name not in self._known:
            self._take(name)
        seen, known = self._known.get(name, (None, {}))
        if seen == ruleset and all(family in known for family in families):
            return known
        read = {family: read_rules(name, family) for family in families}
        self._known[name] = (ruleset, read)
        self._keep(name)
        return read

    def forget(self, name: str) -> None:
        """The namespace is gone."""
        self._known.pop(name, None)
        if self._folder is not None:
            (self._folder / f"{name}.json").unlink(missing_ok=True)

    def forget_all_but(self, names: Collection[str]) -> None:
        """In the folder too: a namespace may have gone while nobody looked."""
        left = [path.stem for path in self._folder.glob("*.json")] if self._folder is not None else []
        for name in {*self._known, *left} - set(names):
            self.forget(name)

    def _take(self, name: str) -> None:
        """What is not there, of another boot, or not whole is as good as nothing."""
        if self._folder is None:
            return
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            form = json.loads((self._folder / f"{name}.json").read_text())
            if form["boot"] == BOOT_ID.read_text().strip():
                families: dict[Family, Any] = form["families"]
                rules = {family: _rules(tables) for family, tables in families.items()}
                self._known[name] = (Ruleset(form["cookie"], form["generation"]), rules)

    def _keep(self, name: str) -> None:
        ruleset, rules = self._known[name]
        if self._folder is None or ruleset.cookie < 0:
            return
        form = {
            "boot": BOOT_ID.read_text().strip(),
            "cookie": ruleset.cookie,
            "generation": ruleset.generation,
            "families": {family: dict(one.tables) for family, one in rules.items()},
        }
        draft = self._folder / f".{name}.new"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft.write_text(json.dumps(form))
            draft.replace(self._folder / f"{name}.json")
        except OSError as error:
            # The next process reads the rules from the kernel, as it would have done.
            log.debug("what rules were read is not kept", namespace=name, error=str(error))


def _rules(tables: Mapping[str, list[str]]) -> Rules:
    return Rules({table: tuple(lines) for table, lines in tables.items()})
