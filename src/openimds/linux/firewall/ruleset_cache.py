"""The rules of namespaces as last read, valid until the ruleset changes. The cache can outlive the process.

A ruleset is identified by the boot ID, the namespace's cookie and the generation number of the ruleset
(netlink/nft_genid.py). Cookies are unique during a boot, while inodes are reused.
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
"""asm-generic/socket.h, since Linux 5.14. Python does not define it."""
COOKIE_BYTES = 8
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Ruleset:
    """The ruleset of a namespace at one time of this boot. Equal values mean equal rules."""

    cookie: int
    """The namespace's cookie. Without kernel support the negative inode, which is not stored for the next process."""
    generation: int


def ruleset_here() -> Ruleset | None:
    """The ruleset of the calling thread's namespace.

    None if the kernel does not report it, or if iptables is the legacy variant, which does not change the generation.
    """
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
    """Cached rules by namespace. Not thread-safe. Only one process may cache the rules of a namespace."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder` stores one file per namespace for the next process. If it is None, nothing is stored."""
        self._folder = folder
        self._cached: dict[str, tuple[Ruleset, Mapping[Family, Rules]]] = {}

    def rules(self, name: str, families: Collection[Family], ruleset: Ruleset | None) -> Mapping[Family, Rules]:
        """The rules of a namespace. `ruleset` was read before this call; if it is None, the cache is not used."""
        if ruleset is None:
            return {family: read_rules(name, family) for family in families}
        if name not in self._cached:
            self._load(name)
        cached_ruleset, rules = self._cached.get(name, (None, {}))
        if cached_ruleset == ruleset and all(family in rules for family in families):
            return rules
        read = {family: read_rules(name, family) for family in families}
        self._cached[name] = (ruleset, read)
        self._store(name)
        return read

    def forget(self, name: str) -> None:
        """Removes a deleted namespace."""
        self._cached.pop(name, None)
        if self._folder is not None:
            (self._folder / f"{name}.json").unlink(missing_ok=True)

    def forget_all_but(self, names: Collection[str]) -> None:
        """Removes all other namespaces, also from the folder: they may have been deleted while no agent ran."""
        left = [path.stem for path in self._folder.glob("*.json")] if self._folder is not None else []
        for name in {*self._cached, *left} - set(names):
            self.forget(name)

    def _load(self, name: str) -> None:
        """Loads a file. A missing, incomplete or older file (of another boot) is ignored."""
        if self._folder is None:
            return
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            document = json.loads((self._folder / f"{name}.json").read_text())
            if document["boot"] == BOOT_ID.read_text().strip():
                families: dict[Family, Any] = document["families"]
                rules = {family: _rules(tables) for family, tables in families.items()}
                self._cached[name] = (Ruleset(document["cookie"], document["generation"]), rules)

    def _store(self, name: str) -> None:
        ruleset, rules = self._cached[name]
        if self._folder is None or ruleset.cookie < 0:
            return
        document = {
            "boot": BOOT_ID.read_text().strip(),
            "cookie": ruleset.cookie,
            "generation": ruleset.generation,
            "families": {family: dict(one.tables) for family, one in rules.items()},
        }
        draft = self._folder / f".{name}.new"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft.write_text(json.dumps(document))
            draft.replace(self._folder / f"{name}.json")
        except OSError as error:
            # The next process reads the rules from the kernel, as without a cache.
            log.debug("ruleset cache not written", namespace=name, error=str(error))


def _rules(tables: Mapping[str, list[str]]) -> Rules:
    return Rules({table: tuple(lines) for table, lines in tables.items()})
