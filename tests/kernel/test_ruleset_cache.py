"""The ruleset cache: firewall rules that one process read, and that the next process need not read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.kernel.stage import Host

from openimds.linux.configure.configurator import NetworkConfigurator
from openimds.linux.firewall import ruleset_cache
from openimds.linux.firewall.iptables import read_rules
from openimds.linux.firewall.ruleset_cache import RulesetCache
from openimds.linux.netns import netns
from openimds.linux.process.daemons import run
from openimds.netconfig.diff import Family
from openimds.netconfig.namespace_state import NamespaceState, Rules

pytestmark = pytest.mark.kernel

ACCEPT = "-A INPUT -p tcp -m tcp --dport 9697 -j ACCEPT"
FAMILIES = ("ipv4", "ipv6")


def router(host: Host) -> NamespaceState:
    rules = Rules({"filter": (ACCEPT,)})
    return NamespaceState(name=host.namespace("qrouter-1"), routes=None, ipv4_rules=rules, ipv6_rules=rules)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The families that were read from the kernel, in order."""
    found: list[str] = []

    def counted(namespace: str, family: Family) -> Rules:
        found.append(family)
        return read_rules(namespace, family)

    monkeypatch.setattr(ruleset_cache, "read_rules", counted)
    return found


def next_process(host: Host) -> NetworkConfigurator:
    return NetworkConfigurator(host.ownership, host.prefix, ruleset_cache=RulesetCache(host.state_path / "rules"))


def file_of(host: Host) -> Path:
    return host.state_path / "rules" / f"{host.namespace('qrouter-1')}.json"


def test_next_process_does_not_read_unchanged_rules(host: Host, read: list[str]) -> None:
    assert next_process(host).apply(router(host))
    read.clear()
    assert next_process(host).apply(router(host)) == ()
    assert read == []


def test_rules_changed_in_the_meantime_are_repaired(host: Host, read: list[str]) -> None:
    next_process(host).apply(router(host))
    run(["iptables", "-F", "INPUT"], namespace=router(host).name)
    read.clear()
    assert next_process(host).apply(router(host)) == ("replace ipv4 table filter (1 rules)",)
    assert set(read) == set(FAMILIES)
    assert ACCEPT in run(["iptables-save"], namespace=router(host).name)


def test_replaced_namespace_with_the_same_generation_is_read_again(host: Host, read: list[str]) -> None:
    desired = router(host)
    next_process(host).apply(desired)
    before = json.loads(file_of(host).read_text())
    netns.delete(desired.name)
    run(["ip", "netns", "add", desired.name])
    now = netns.run_in(desired.name, ruleset_cache.ruleset_here)
    assert now is not None
    while now.generation < before["generation"]:
        run(["iptables", "-A", "INPUT", "-j", "DROP"], namespace=desired.name)
        now = netns.run_in(desired.name, ruleset_cache.ruleset_here)
        assert now is not None
    assert now.cookie != before["cookie"]
    file_of(host).write_text(json.dumps({**before, "generation": now.generation}))
    read.clear()
    next_process(host).apply(desired)
    assert set(read) == set(FAMILIES)
    assert "DROP" not in run(["iptables-save"], namespace=desired.name)


def spoilt(**fields: object) -> Callable[[str], str]:
    return lambda text: json.dumps({**json.loads(text), **fields})


@pytest.mark.parametrize(
    "spoil",
    [
        spoilt(boot="another"),
        spoilt(families={"ipv4": None}),
        spoilt(families={}),
        lambda text: text[:-20],
        lambda _text: "[]",
        lambda _text: "",
    ],
)
def test_invalid_cache_file_is_ignored(host: Host, read: list[str], spoil: Callable[[str], str]) -> None:
    next_process(host).apply(router(host))
    file_of(host).write_text(spoil(file_of(host).read_text()))
    read.clear()
    assert next_process(host).apply(router(host)) == ()
    assert sorted(read) == list(FAMILIES)


def test_cache_works_without_its_folder(host: Host) -> None:
    next_process(host).apply(router(host))
    shutil.rmtree(host.state_path / "rules")
    (host.state_path / "rules").write_text("in the way")
    assert next_process(host).apply(router(host)) == ()


def test_file_of_a_removed_namespace_is_deleted(host: Host) -> None:
    kernel = next_process(host)
    kernel.apply(router(host))
    assert file_of(host).exists()
    kernel.remove_namespace(router(host).name)
    assert not file_of(host).exists()


def test_file_of_a_namespace_deleted_between_runs_is_deleted(host: Host) -> None:
    next_process(host).apply(router(host))
    known = RulesetCache(host.state_path / "rules")
    known.forget_all_but({router(host).name})
    assert file_of(host).exists()
    known.forget_all_but(())
    assert not file_of(host).exists()
