"""Removes everything that this system made on the host, as listed in the ownership record, also after a crash."""

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
from openimds.linux.netns_driver.cgroups import GuestCgroups
from openimds.linux.process import by_namespace
from openimds.resources.server import instance_namespace

TABLE_FAMILIES = ("bridge", "inet")
"""`bridge`: port security; `inet`: exemption from connection tracking."""


def remove_everything(ownership: OwnershipRecord, prefix: str = "") -> tuple[str, ...]:
    """Removes namespaces with their processes, devices, bridges and firewall tables. Returns descriptions.

    Idempotent. `prefix` is the option `namespace_prefix`. Goes on after a failure, and raises ConfigureError with all
    of them at the end.
    """
    done: list[str] = []
    failures: list[str] = []
    namespaces = sorted(ownership.names("netns"))
    links = sorted(ownership.names("link"))
    # The slow steps handle all objects together: terminating processes, and waiting for the kernel to release devices.
    guests = instance_namespace("", prefix)
    owned = [name.removeprefix(guests) for name in namespaces if name.startswith(guests)]
    _try(partial(GuestCgroups(prefix).remove_all, owned), done, failures)
    _try(partial(_kill_processes, namespaces), done, failures)
    _try(partial(_remove_forwarding, ownership), done, failures)
    _try(partial(_remove_links, ownership, links), done, failures)
    for name in namespaces:
        _try(partial(_remove_namespace, ownership, name), done, failures)
    if not failures:  # a tap that could not be removed keeps its filters
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
    by_namespace.kill_processes_in(*namespaces)
    return ()


def _remove_links(ownership: OwnershipRecord, names: Iterable[str]) -> Iterable[str]:
    removed = delete_links(names)
    for name in names:
        ownership.remove("link", name)
    return [f"device {name}" for name in sorted(removed)]


def _remove_namespace(ownership: OwnershipRecord, name: str) -> Iterable[str]:
    existed = name in netns.list_names()
    netns.delete(name)
    ownership.remove("netns", name)
    return [f"namespace {name}"] if existed else []


def _remove_forwarding(ownership: OwnershipRecord) -> Iterable[str]:
    removed = remove_rules(ownership.names("link"))
    return [f"rules of the host's FORWARD chains for {', '.join(removed)}"] if removed else []


def _remove_table(family: str, table: str) -> Iterable[str]:
    if nft_list(family, table) is None:
        return []
    nft_delete(family, table)
    return [f"nftables table {family} {table}"]
