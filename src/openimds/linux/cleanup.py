"""Takes away everything that this system made on this host, by its ledger; also after a crash."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from openimds.linux import netlink, netns
from openimds.linux.conntrack import table_name
from openimds.linux.errors import ProgramError, WiringError
from openimds.linux.firewall import nft_delete, nft_list
from openimds.linux.forwarding import remove_rules
from openimds.linux.kernel import Kernel
from openimds.linux.ledger import Ledger

TABLE_FAMILIES = ("bridge", "inet")
"""`bridge`: port security; `inet`: the exemption from connection tracking."""


def remove_everything(ledger: Ledger, prefix: str = "") -> tuple[str, ...]:
    """Namespaces with the processes in them, devices, bridges, firewall tables; what was removed, in words.

    Idempotent. `prefix` is the option `namespace_prefix`. Goes on after a failure and raises WiringError with all.
    """
    done: list[str] = []
    failures: list[str] = []
    for name in sorted(ledger.names("netns")):
        _try(partial(_remove_namespace, ledger, prefix, name), done, failures)
    _try(partial(_remove_forwarding, ledger), done, failures)
    for name in sorted(ledger.names("link")):
        _try(partial(_remove_link, ledger, name), done, failures)
    for family in TABLE_FAMILIES:
        _try(partial(_remove_table, family, table_name(prefix)), done, failures)
    if failures:
        raise WiringError("clean up", failures)
    return tuple(done)


def _try(work: Callable[[], str | None], done: list[str], failures: list[str]) -> None:
    try:
        said = work()
    except (OSError, ProgramError, WiringError) as error:
        failures.append(str(error))
    else:
        if said:
            done.append(said)


def _remove_namespace(ledger: Ledger, prefix: str, name: str) -> str | None:
    there = name in netns.all_names()
    Kernel(ledger, prefix).remove_namespace(name)
    return f"namespace {name}" if there else None


def _remove_forwarding(ledger: Ledger) -> str | None:
    removed = remove_rules(ledger.names("link"))
    return f"rules of the host's FORWARD chains for {', '.join(removed)}" if removed else None


def _remove_link(ledger: Ledger, name: str) -> str | None:
    link = netlink.link_named(name)
    if link is not None:
        netlink.delete_link(link.index)
    ledger.forget("link", name)
    return f"device {name}" if link is not None else None


def _remove_table(family: str, table: str) -> str | None:
    if nft_list(family, table) is None:
        return None
    nft_delete(family, table)
    return f"nftables table {family} {table}"
