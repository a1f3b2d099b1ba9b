"""iptables and ip6tables rules of a namespace, and nftables tables of the host, through their command line programs."""

from __future__ import annotations

from collections.abc import Mapping

from openimds.linux.errors import ProgramError
from openimds.linux.process.daemons import run
from openimds.netconfig.diff import Family
from openimds.netconfig.namespace_state import Rules

SAVE: Mapping[Family, str] = {"ipv4": "iptables-save", "ipv6": "ip6tables-save"}
RESTORE: Mapping[Family, str] = {"ipv4": "iptables-restore", "ipv6": "ip6tables-restore"}
LOCK_WAIT_SECONDS = 5
NFT_ABSENT = "No such file or directory"


def read_rules(namespace: str, family: Family) -> Rules:
    """All existing tables of a namespace, without counters."""
    saved = _save(namespace, family)
    return Rules({table: tuple(_without_counters(line) for line in lines) for table, lines in saved.items()})


def replace_table(namespace: str, family: Family, table: str, lines: tuple[str, ...]) -> None:
    """Replaces one table atomically. Unchanged rules keep their packet counters. Raises ProgramError."""
    counters = {_without_counters(line): _counters(line) for line in _save(namespace, family).get(table, ())}
    body = [_with_counters(line, counters) for line in lines]
    text = "\n".join([f"*{table}", *body, "COMMIT", ""])
    argv = [RESTORE[family], "-w", str(LOCK_WAIT_SECONDS), "--counters"]
    run(argv, namespace=namespace, stdin=text)


def _save(namespace: str, family: Family) -> dict[str, list[str]]:
    tables: dict[str, list[str]] = {}
    current: list[str] = []
    for line in run([SAVE[family], "-c"], namespace=namespace).splitlines():
        if line.startswith("*"):
            current = tables.setdefault(line[1:].strip(), [])
        elif line.startswith((":", "[")):
            current.append(line.strip())
    return tables


def _without_counters(line: str) -> str:
    """Strips the counters: `[12:720] -A INPUT -j ACCEPT` → `-A INPUT -j ACCEPT`."""
    return line.split("] ", 1)[1] if line.startswith("[") else line


def _counters(line: str) -> str:
    return line.split("] ", 1)[0] + "]" if line.startswith("[") else "[0:0]"


def _with_counters(line: str, counters: Mapping[str, str]) -> str:
    return f"{counters.get(line, '[0:0]')} {line}" if line.startswith("-") else line


def nft_apply(text: str) -> None:
    """Applies a text as one transaction. Raises ProgramError."""
    run(["nft", "-f", "-"], stdin=text)


def nft_list(family: str, table: str) -> str | None:
    """The listing of a table, or None if the table does not exist."""
    try:
        return run(["nft", "list", "table", family, table])
    except ProgramError as error:
        if NFT_ABSENT in error.reason:
            return None
        raise


def nft_delete(family: str, table: str) -> None:
    """Deletes a table. Idempotent: `add` creates a missing table, so that `delete` does not fail."""
    nft_apply(f"add table {family} {table}\ndelete table {family} {table}\n")
