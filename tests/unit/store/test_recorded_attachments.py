"""Migration 0003 on a store of the earlier version: attachments of the service are recorded, and claims are logged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from structlog.testing import capture_logs

from openimds.store import schema
from openimds.store.engine import Store

NOW = "2026-11-22 10:00:00.000000"
VICTIM, ATTACKER = "1" * 32, "2" * 32
SERVER, ROUTER = "d8e02d56-2648-49a3-bf97-6be8f1204f38", "0f6a1f9e-0000-4000-8000-00000000000a"

PORTS = {
    # name: (project, network, device_owner, device_id, whether the service made it)
    "nic": (VICTIM, "net", "compute:nova", SERVER, True),
    "leg": (VICTIM, "net", "network:router_interface", ROUTER, True),
    "gateway": ("", "outside", "network:router_gateway", ROUTER, True),
    "floating": ("", "outside", "network:floatingip", "fip", True),
    "dhcp": (VICTIM, "net", "network:dhcp", "dhcp1", True),
    "plain": (VICTIM, "net", "", "", False),
    "text": (VICTIM, "net", "", "my device", False),
    "forged nic": (ATTACKER, "evil", "compute:nova", SERVER, False),
    "forged leg": (ATTACKER, "evil", "network:router_interface", ROUTER, False),
    "forged gateway": (ATTACKER, "evil", "network:router_gateway", ROUTER, False),
    "forged floating": (ATTACKER, "evil", "network:floatingip", "fip", False),
}
REPORTED = {name for name in PORTS if name.startswith("forged")}


@pytest.fixture
def old_store(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{tmp_path}/openimds.sqlite")
    with store.engine.connect() as connection:
        command.upgrade(schema._config(connection), "0002")
        _fill(connection)
        connection.commit()
    yield store
    store.close()


def _fill(connection: sa.Connection) -> None:
    tables = sa.MetaData()
    tables.reflect(connection)

    def add(table: str, **values: Any) -> None:
        row = {column.name: _filler(column) for column in tables.tables[table].columns if not column.nullable}
        connection.execute(tables.tables[table].insert().values(row | values))

    for network, project in (("net", VICTIM), ("outside", "admin"), ("evil", ATTACKER)):
        add("networks", id=network, project_id=project)
    add("servers", id=SERVER, project_id=VICTIM, nic_order=json.dumps(["nic"]))
    add("routers", id=ROUTER, project_id=VICTIM, external_network_id="outside")
    for number, (name, (project, network, owner, device, _made)) in enumerate(PORTS.items()):
        mac = f"fa:16:3e:00:00:{number:02x}"
        row = {"project_id": project, "network_id": network, "device_owner": owner, "device_id": device}
        add("ports", id=name, mac_address=mac, host="node1" if name == "dhcp" else "", **row)
    add("floating_ips", id="fip", project_id=VICTIM, floating_network_id="outside", floating_port_id="floating")
    connection.execute(tables.tables["revision_counter"].insert().values(id=1, value=7, floor=3))


def _filler(column: sa.Column[Any]) -> object:
    if isinstance(column.type, sa.DateTime):
        return sa.func.datetime(NOW)
    if isinstance(column.type, sa.JSON):
        return "[]"
    return 0 if isinstance(column.type, sa.Integer | sa.Boolean) else ""


def test_only_attachments_of_the_service_are_recorded(old_store: Store) -> None:
    schema.upgrade(old_store)
    with old_store.engine.connect() as connection:
        rows = connection.execute(sa.text("SELECT id, attached_owner, attached_id FROM ports")).all()
    recorded = {name: (owner, device) for name, owner, device in rows if owner or device}
    assert recorded == {name: (owner, device) for name, (_p, _n, owner, device, made) in PORTS.items() if made}


def test_claims_are_logged_once(old_store: Store) -> None:
    with capture_logs() as logs:
        schema.upgrade(old_store)
        schema.upgrade(old_store)
    reported = [entry for entry in logs if entry["event"] == "port attachment not recorded"]
    assert {entry["port_id"] for entry in reported} == REPORTED
    assert len(reported) == len(REPORTED)
    assert all(entry["project_id"] == ATTACKER and entry["device_id"] and entry["remedy"] for entry in reported)


def test_watchers_must_list_again(old_store: Store) -> None:
    schema.upgrade(old_store)
    with old_store.engine.connect() as connection:
        assert connection.execute(sa.text("SELECT value, floor FROM revision_counter")).one() == (8, 8)
