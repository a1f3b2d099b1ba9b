"""Changes to a router's namespace, files and processes are repaired. Everything else stays untouched."""

from __future__ import annotations

import signal
import socket
from contextlib import closing

import pytest
from tests.kernel import repair_stage, test_network_agents
from tests.kernel.notifications import pending
from tests.kernel.repair_stage import Wired, other_settings
from tests.waiting import until

from openimds.linux.monitor.netlink_events import RTMGRP_ALL
from openimds.linux.netlink.socket import open_socket
from openimds.linux.netns import netns
from openimds.linux.process.daemons import run, terminate
from openimds.netconfig import router_namespace

pytestmark = pytest.mark.kernel

cloud = test_network_agents.cloud
router = repair_stage.router
ROUTER_CHANGES = {
    "address": "ip -n NS address delete 192.168.40.1/24 dev DEV",
    "down": "ip -n NS link set DEV down",
    "nat flushed": "ip netns exec NS iptables -t nat -F",
    "ruleset flushed": "ip netns exec NS nft flush ruleset",
    "foreign rule": "ip netns exec NS iptables -I INPUT -j ACCEPT",
    "ipv6 rule": "ip netns exec NS ip6tables -F INPUT",
    "device": "ip link delete DEV",
}


@pytest.mark.parametrize("change", ROUTER_CHANGES.values(), ids=ROUTER_CHANGES)
def test_router_is_repaired(router: Wired, change: str) -> None:
    host_name = f"tap{router.device.removeprefix('qr-')}"
    on_the_host = change.replace("link delete DEV", f"link delete {host_name}")
    router.is_repaired(lambda: router.do(on_the_host))


def test_each_setting_of_a_router_is_repaired(router: Wired) -> None:
    for change in other_settings(router_namespace.SYSCTLS):
        router.is_repaired(lambda change=change: router.do(change))  # type: ignore[misc]


@pytest.mark.parametrize("program", ["haproxy", "radvd"])
def test_program_of_a_router_is_restarted(router: Wired, program: str) -> None:
    before = router.pids()
    router.is_repaired(lambda: terminate(before[program], grace_seconds=0), restarts=True)
    now = router.pids()
    assert {name for name in now if now[name] != before[name]} == {program}


def test_removed_namespace_of_a_router_is_created_again(router: Wired) -> None:
    router.is_repaired(lambda: router.do("ip netns delete NS"), restarts=True)


def test_full_pass_changes_nothing_in_a_converged_router(router: Wired) -> None:
    netns.run_in(router.namespace, _knock)
    until(lambda: any(not rule.startswith("[0:0]") for rule in _rules(_saved(router))))
    counted = _saved(router)
    pids, written = router.pids(), [path.stat().st_mtime_ns for path in (*router.files, *router.pid_files.values())]
    rounds = router.cloud.l3.facts()["full_rounds"]
    _settle(router)
    with closing(netns.run_in(router.namespace, lambda: open_socket(groups=RTMGRP_ALL))) as netlink:
        router.cloud.l3.send(signal.SIGHUP)
        until(lambda: router.cloud.l3.facts()["full_rounds"] > rounds)
        assert pending(netlink) == []
    assert router.pids() == pids
    assert [path.stat().st_mtime_ns for path in (*router.files, *router.pid_files.values())] == written
    assert _rules(_saved(router)) == _rules(counted)


def _settle(router: Wired) -> None:
    """Waits for the end of the kernel's own notifications.

    A device that is up gets its link-local address. Duplicate address detection ends seconds after the router was
    reported, and causes notifications of each address and its routes.
    """
    for is_over in (_devices_are_up, _has_no_tentative_address):
        until(lambda is_over=is_over: is_over(router))  # type: ignore[misc]
        router.do("ip -n NS link set lo up")  # changes nothing, and gets the lock after the notifying thread


def _devices_are_up(router: Wired) -> bool:
    return all(
        " UP " in line
        for line in run(["ip", "-br", "link", "show", "type", "veth"], namespace=router.namespace).splitlines()
    )


def _has_no_tentative_address(router: Wired) -> bool:
    return "tentative" not in run(["ip", "-6", "addr"], namespace=router.namespace)


def _knock() -> None:
    """Sends a packet that matches the rules."""
    with socket.socket() as sender:
        sender.setblocking(False)
        sender.connect_ex(("127.0.0.1", 9697))


def _saved(router: Wired) -> str:
    return run(["iptables-save", "-c"], namespace=router.namespace)


def _rules(saved: str) -> list[str]:
    return [line for line in saved.splitlines() if line.startswith("[")]
