"""What a mirror knows, as one value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from openimds.client.control_client import Change, Snapshot
from openimds.resources.network import FloatingIP, Network, Port, Router, Subnet
from openimds.resources.server import Server


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The mirrored kinds at one revision, by id; kinds that are not mirrored are empty. Never changed in place."""

    revision: int = -1
    """-1: nothing is known yet."""
    networks: Mapping[str, Network] = field(default_factory=dict)
    subnets: Mapping[str, Subnet] = field(default_factory=dict)
    ports: Mapping[str, Port] = field(default_factory=dict)
    routers: Mapping[str, Router] = field(default_factory=dict)
    floating_ips: Mapping[str, FloatingIP] = field(default_factory=dict)
    servers: Mapping[str, Server] = field(default_factory=dict)


_FIELD_OF_KIND = {
    "network": "networks",
    "subnet": "subnets",
    "port": "ports",
    "router": "routers",
    "floatingip": "floating_ips",
    "server": "servers",
}


def view_of(snapshot: Snapshot) -> View:
    fields: dict[str, Any] = {_FIELD_OF_KIND[kind]: objects for kind, objects in snapshot.objects.items()}
    return View(revision=snapshot.revision, **fields)


def changed(view: View, revision: int, changes: Iterable[Change]) -> View:
    """The view after these changes. Tables that did not change, and values in those that did, stay the same objects."""
    tables: dict[str, dict[str, Any]] = {name: cast(Any, getattr(view, name)) for name in _FIELD_OF_KIND.values()}
    copied: set[str] = set()
    for change in changes:
        name = _FIELD_OF_KIND[change.kind]
        if name not in copied:
            tables[name] = dict(tables[name])
            copied.add(name)
        if change.object is None:
            tables[name].pop(change.id, None)
        else:
            tables[name][change.id] = change.object
    fields: dict[str, Any] = dict(tables)
    return View(revision=revision, **fields)
