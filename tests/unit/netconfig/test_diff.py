"""The changes between two states of a namespace, and their order."""

from __future__ import annotations

import dataclasses

import pytest

from openimds.netconfig.diff import changes, describe
from openimds.netconfig.namespace_state import Device, NamespaceState, Route, Rules

DEVICE = Device(
    name="qr-1",
    host_name="tap1",
    bridge="brq1",
    mac_address="fa:16:3e:00:00:01",
    mtu=1500,
    addresses=frozenset({"10.7.0.1/24"}),
)
ROUTE = Route("0.0.0.0/0", "10.7.0.254", "qr-1")
REDIRECT = "-A PREROUTING -i qr-+ -j REDIRECT"
STATE = NamespaceState(
    name="ns",
    devices=(DEVICE,),
    routes=frozenset({ROUTE}),
    sysctls={"net.ipv4.ip_forward": "1", "net.ipv6.conf.qr-1.accept_ra": "0"},
    ipv4_rules=Rules({"nat": (REDIRECT,)}),
)


def descriptions(desired: NamespaceState, actual: NamespaceState | None) -> list[str]:
    return [describe(change) for change in changes(desired, actual)]


def test_protection_comes_first_in_a_new_namespace() -> None:
    assert descriptions(STATE, None) == [
        "create namespace ns",
        "set net.ipv4.ip_forward = 1",
        "replace ipv4 table nat (1 rules)",
        "add device qr-1 (on the host tap1 on brq1)",
        "set net.ipv6.conf.qr-1.accept_ra = 0",
        "add address 10.7.0.1/24 on qr-1",
        "set route 0.0.0.0/0 via 10.7.0.254 dev qr-1",
    ]


def test_equal_states_need_no_changes() -> None:
    assert descriptions(STATE, STATE) == []


def changed(**values: object) -> NamespaceState:
    return dataclasses.replace(STATE, **values)  # type: ignore[arg-type]


def with_device(**values: object) -> NamespaceState:
    return changed(devices=(dataclasses.replace(DEVICE, **values),))  # type: ignore[arg-type]


OTHER = dataclasses.replace(DEVICE, name="qr-2", host_name="tap2", addresses=frozenset())
CASES: list[tuple[str, NamespaceState, NamespaceState, list[str]]] = [
    (
        "foreign address",
        STATE,
        with_device(addresses=frozenset({"10.7.0.1/24", "10.9.0.1/24"})),
        ["remove address 10.9.0.1/24 from qr-1"],
    ),
    (
        "moved address: add before delete",
        with_device(addresses=frozenset({"10.7.0.2/24"})),
        STATE,
        ["add address 10.7.0.2/24 on qr-1", "remove address 10.7.0.1/24 from qr-1"],
    ),
    ("addresses that are an instance's business", with_device(addresses=None), STATE, []),
    (
        "a wrong MAC and a lost bridge",
        STATE,
        with_device(mac_address="fa:16:3e:00:00:99", bridge=""),
        ["set mac_address, bridge of device qr-1"],
    ),
    (
        "another peer: made anew, with its addresses",
        STATE,
        with_device(host_name="tap9"),
        ["remove device qr-1", "add device qr-1 (on the host tap1 on brq1)", "add address 10.7.0.1/24 on qr-1"],
    ),
    (
        "a device too many goes last",
        STATE,
        changed(devices=(DEVICE, OTHER), routes=frozenset()),
        ["set route 0.0.0.0/0 via 10.7.0.254 dev qr-1", "remove device qr-2"],
    ),
    (
        "a new way: put before the old one goes",
        changed(routes=frozenset({Route("10.8.0.0/16", None, "qr-1")})),
        STATE,
        ["set route 10.8.0.0/16 dev qr-1", "remove route 0.0.0.0/0 via 10.7.0.254 dev qr-1"],
    ),
    ("routes that are an instance's business", changed(routes=None), STATE, []),
    (
        "a table too many is emptied",
        STATE,
        changed(ipv4_rules=Rules({"nat": (REDIRECT,), "mangle": ("-A INPUT -j DROP",)})),
        ["replace ipv4 table mangle (0 rules)"],
    ),
    ("a family without tables is not ours", changed(ipv4_rules=Rules()), STATE, []),
    (
        "IPv6 has its own",
        changed(ipv6_rules=Rules({"filter": ("-A INPUT -j DROP",)})),
        STATE,
        ["replace ipv6 table filter (1 rules)"],
    ),
]


@pytest.mark.parametrize(
    ("desired", "actual", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_changes(desired: NamespaceState, actual: NamespaceState, expected: list[str]) -> None:
    assert descriptions(desired, actual) == expected


@pytest.mark.parametrize(
    ("saved", "same"),
    [
        ((":PREROUTING ACCEPT [0:0]", ":own - [3:4]", "-A INPUT -j own", "-A own -j RETURN"), True),
        ((":own - [0:0]", "-A own -j RETURN", "-A INPUT -j own"), True),
        ((":own - [0:0]", "-A INPUT -j own", "-A own -j RETURN", "# a comment"), True),
        ((":INPUT DROP [0:0]", ":own - [0:0]", "-A INPUT -j own", "-A own -j RETURN"), False),
        (("-A INPUT -j own", "-A own -j RETURN"), False),
        ((":own - [0:0]", "-A INPUT -j own", "-A INPUT -j own", "-A own -j RETURN"), False),
    ],
)
def test_rules_are_compared_without_what_iptables_save_adds(saved: tuple[str, ...], same: bool) -> None:
    desired = changed(ipv4_rules=Rules({"filter": (":own - [0:0]", "-A INPUT -j own", "-A own -j RETURN")}))
    assert (descriptions(desired, changed(ipv4_rules=Rules({"filter": saved}))) == []) is same
