"""Takes away everything that this system made on this host, by its ledger; also after a crash."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from openimds.linux.configure.ownership import OwnershipRecord
from openimds.linux.errors import ConfigureError, ProgramError
from openimds.linux.firewall.bridge_forward import remove_rules
from openimds.linux.firewall.iptables import nft_delete, nft_list
from openimds.linux.firewall.notrack import table_name
from openimds.linux.netlink.links import delete_links
from openimds.linux.netns import netns

TABLE_FAMILIES = ("bridge", "inet")
"""`bridge`: port security; `inet`: the exemption from connection tracking."""


def remove_everything(ledger: OwnershipRecord, prefix: str = "") -> tuple[str, ...]:
    """Namespaces with the processes in them, devices, bridges, firewall tables; what was removed, in words.

    Idempotent. `prefix` is the option `namespace_prefix`. Goes on after a failure and raises WiringError with all.
    """
    done: list[str] = []
    failures: list[str] = []
    namespaces = sorted(ledger.names("netns"))
    links = sorted(ledger.names("link"))
    # What takes long is done for all at once: ending programs, and waiting for the kernel to let devices go.
    _try(partial(_kill_processes, namespaces), done, failures)
    _try(partial(_remove_forwarding, ledger), done, failures)
    _try(partial(_remove_links, ledger, links), done, failures)
    for name in namespaces:
        _try(partial(_remove_namespace, ledger, name), done, failures)
    for family in TABLE_FAMILIES:
        _try(partial(_remove_table, family, table_name(prefix)), done, failures)
    if failures:
        raise ConfigureError("clean up", failures)
    return tuple(done)


def _try(work: Callable[[], Iterable[str]], done: list[str], failures: list[str]) -> None:
    try:
        done += work()
    except (OSError, ProgramError, ConfigureError) as error:
        failures.append(str(error))


def _kill_processes(namespaces: Iterable[str]) -> Iterable[str]:
    netns.kill_processes_in(*namespaces)
    return ()


def _remove_links(ledger: OwnershipRecord, names: Iterable[str]) -> Iterable[str]:
    removed = delete_links(names)
    for name in names:
        ledger.forget("link", name)
    return [f"device {name}" for name in sorted(removed)]


def _remove_namespace(ledger: OwnershipRecord, name: str) -> Iterable[str]:
    there = name in netns.list_names()
    netns.delete(name)
    ledger.forget("netns", name)
    return [f"namespace {name}"] if there else []


def _remove_forwarding(ledger: OwnershipRecord) -> Iterable[str]:
    removed = remove_rules(ledger.names("link"))
    return [f"rules of the host's FORWARD chains for {', '.join(removed)}"] if removed else []


def _remove_table(family: str, table: str) -> Iterable[str]:
    if nft_list(family, table) is None:
        return []
    nft_delete(family, table)
    return [f"nftables table {family} {table}"]
