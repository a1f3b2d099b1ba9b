"""Parses netlink notifications into watch keys."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

from openimds.linux.monitor.resource_index import FORWARDING, WatchKey
from openimds.linux.netlink.links import RTM_DELLINK, RTM_NEWLINK, parse_link
from openimds.linux.netlink.socket import (
    NFNL_SUBSYS_NFTABLES,
    Attributes,
    parse_attributes,
    parse_messages,
    parse_string,
)

RTMGRP_LINK = 0x1
RTMGRP_ALL = RTMGRP_LINK | 0x10 | 0x40 | 0x100 | 0x400 | 1 << 23 | 1 << 24
"""Links, and the addresses, routes and settings of IPv4 and IPv6 (RTNLGRP_IPV4_NETCONF is group 24: forwarding …)."""
NFT_GROUP = 1 << 6
"""NFNLGRP_NFTABLES is group 7. Group n is bit n - 1."""
NFT_DELTABLE, NFT_NEWCHAIN, NFT_DELCHAIN, NFT_NEWRULE, NFT_DELRULE, NFT_DELSETELEM = 2, 3, 5, 6, 8, 14
NFTA_TABLE, NFTA_RULE_CHAIN, NFTA_CHAIN_NAME, NFTA_SET_ELEM_LIST_ELEMENTS = 1, 2, 3, 3
NFTA_SET_ELEM_KEY, NFTA_DATA_VALUE = 1, 1
NFGENMSG_BYTES = 4
NFPROTO_INET, NFPROTO_IPV4, NFPROTO_BRIDGE, NFPROTO_IPV6 = 1, 2, 7, 10

_BRIDGE = re.compile(rb"brq[0-9A-Za-z-]{1,12}(?=\0)")
"""The name of a bridge anywhere in a rule: `-i brq2ca23c47-9d`."""


def parse_link_events(datagram: bytes) -> Iterator[WatchKey]:
    """Parses rtnetlink notifications of the root namespace."""
    for kind, _flags, payload in parse_messages(datagram):
        if kind in (RTM_NEWLINK, RTM_DELLINK):
            yield ("link", parse_link(payload).name)


def parse_ruleset_events(datagram: bytes) -> Iterator[WatchKey]:
    """Parses nftables notifications of the root namespace.

    A new element yields no key. A new rule of a port yields the key of that port only. So a change that an agent makes
    for one port starts no reconcile pass of another port.
    """
    for kind, _flags, payload in parse_messages(datagram):
        if kind >> 8 != NFNL_SUBSYS_NFTABLES or len(payload) < NFGENMSG_BYTES:
            continue
        family, found = payload[0], parse_attributes(payload, NFGENMSG_BYTES)
        if family == NFPROTO_BRIDGE:
            yield from _bridge_table_keys(kind & 0xFF, found)
        elif family == NFPROTO_INET:
            yield from _inet_table_keys(kind & 0xFF, found)
        elif family in (NFPROTO_IPV4, NFPROTO_IPV6):
            yield from _forward_chain_keys(kind & 0xFF, found, payload)


def _bridge_table_keys(kind: int, found: Attributes) -> Iterator[WatchKey]:
    if kind in (NFT_NEWRULE, NFT_DELRULE):
        yield ("chain", parse_string(found.get(NFTA_RULE_CHAIN)))
    elif kind in (NFT_NEWCHAIN, NFT_DELCHAIN):
        yield ("chain", parse_string(found.get(NFTA_CHAIN_NAME)))
    elif kind == NFT_DELSETELEM:
        yield from (("chain", name) for name in _device_names(found))


def _inet_table_keys(kind: int, found: Attributes) -> Iterator[WatchKey]:
    if kind in (NFT_DELTABLE, NFT_NEWCHAIN, NFT_DELCHAIN, NFT_NEWRULE, NFT_DELRULE):
        yield ("table", parse_string(found.get(NFTA_TABLE)))
    elif kind == NFT_DELSETELEM:
        yield from (("link", name) for name in _device_names(found))


def _forward_chain_keys(kind: int, found: Attributes, payload: bytes) -> Iterator[WatchKey]:
    """Parses changes of iptables' FORWARD chain.

    A deleted rule is reported in full. A chain that was created, or whose policy changed, is reported by its name.
    """
    if kind == NFT_DELRULE and parse_string(found.get(NFTA_RULE_CHAIN)) == "FORWARD":
        yield from (("link", name.decode()) for name in set(_BRIDGE.findall(payload)))
    elif kind == NFT_NEWCHAIN and parse_string(found.get(NFTA_CHAIN_NAME)) == "FORWARD":
        yield FORWARDING


def _device_names(found: Attributes) -> Iterator[str]:
    """The elements of a set of type ifname. Each element is a name, padded to 16 bytes."""
    listed = found.get(NFTA_SET_ELEM_LIST_ELEMENTS, b"")
    for element in _list_items(listed):
        key = parse_attributes(parse_attributes(element).get(NFTA_SET_ELEM_KEY, b"")).get(NFTA_DATA_VALUE)
        yield parse_string(key)


def _list_items(nested: bytes) -> Iterator[bytes]:
    """The values of a nested list, whose items all have the same type."""
    at = 0
    while at + 4 <= len(nested):
        length = int.from_bytes(nested[at : at + 2], sys.byteorder)
        if length < 4:
            break
        yield nested[at + 4 : at + length]
        at += (length + 3) & ~3
