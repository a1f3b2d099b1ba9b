"""Snapshots, changes and reports of agents (docs/design/watch.md).

A cloud has tens of thousands of ports, and agents list them when they start. Mapped objects would take ten times as long,
so ports are read without them. Repeated values of columns are parsed once, and each port is encoded before the next one
is read, because a list of all of them would cost memory and time of the garbage collector.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import msgspec
import sqlalchemy as sa
import structlog
from sqlalchemy.orm import Session, selectinload

from openimds.resources.errors import BadRequest, NotFound, RevisionGone
from openimds.resources.query import StorePosition
from openimds.resources.text import json_document
from openimds.store.change_log import ChangeRecord, changes_after, epoch_of, newest_revision, store_identity
from openimds.store.compute.agent_reports import put_console, report_server, server_json
from openimds.store.engine import Store, utc_now
from openimds.store.models.compute import Server
from openimds.store.models.network import FloatingIP, IPAllocation, Network, Port, Router, Subnet
from openimds.store.network import agents, ports
from openimds.store.network.serializers import port_json, render
from openimds.store.raw.instance_changes import KINDS as DOCUMENT_KINDS

log = structlog.get_logger(__name__)

_ENCODE = msgspec.json.Encoder().encode
_MEMO = 8192
_ROWS = 1000
"""Rows that are fetched together."""


def all_ports(session: Session) -> list[msgspec.Raw]:
    """All ports as the network API shows them to an administrator, in the order of their ids."""
    addresses = _addresses(session)
    columns = sa.inspect(Port).local_table.columns
    readers = [(column.key, _READERS.get(type(column.type))) for column in columns]
    statement = sa.select(*[_as_text(column) for column in columns]).order_by(Port.id)
    shown = []
    for row in session.execute(statement, execution_options={"yield_per": _ROWS}):
        values = {
            key: value if reader is None else reader(value) for (key, reader), value in zip(readers, row, strict=True)
        }
        port = SimpleNamespace(**values, fixed_ips=addresses.get(values["id"], ()))
        shown.append(encoded("port", port_json(port, is_admin=True)))  # type: ignore[arg-type]
    return [port for port in shown if port is not None]


def encoded(kind: str, shown: Mapping[str, Any]) -> msgspec.Raw | None:
    """The object as JSON, or None if it cannot be encoded. The log names such an object, and agents see all others."""
    try:
        return msgspec.Raw(_ENCODE(shown))
    except (TypeError, ValueError, OverflowError) as error:
        log.warning("object encoding failed", kind=kind, id=shown["id"], reason=str(error))
        return None


def _addresses(session: Session) -> dict[str, list[Any]]:
    statement = sa.select(IPAllocation.port_id, IPAllocation.subnet_id, IPAllocation.ip_address)
    found: defaultdict[str, list[Any]] = defaultdict(list)
    for row in session.execute(statement.order_by(IPAllocation.position)):
        found[row.port_id].append(row)
    return found


def _as_text(column: Any) -> sa.ColumnElement[Any]:
    return sa.cast(column, sa.Text) if type(column.type) in _READERS else column


_READERS: dict[type[Any], Callable[[str], Any]] = {
    sa.JSON: lru_cache(_MEMO)(json_document),
    sa.DateTime: lru_cache(_MEMO)(datetime.fromisoformat),
}


NETWORK_MODELS: Mapping[str, type[Any]] = {
    "network": Network,
    "subnet": Subnet,
    "port": Port,
    "router": Router,
    "floatingip": FloatingIP,
}
KINDS = (*NETWORK_MODELS, "server")
WATCHED_KINDS = tuple(dict.fromkeys((*KINDS, *DOCUMENT_KINDS)))
"""KINDS, and the kinds that only metadata documents depend on (store/raw/instance_changes.py)."""

LOADER_OPTIONS: Mapping[str, tuple[Any, ...]] = {
    "network": (selectinload(Network.subnets),),
    "port": (selectinload(Port.fixed_ips),),
}
IDS_PER_STATEMENT = 500
"""Ids in one statement."""


class WatchStore:
    """Objects have all attributes that an administrator sees, because only agents may call the watch."""

    def __init__(self, store: Store, *, clock: Callable[[], datetime] = utc_now) -> None:
        self._store = store
        self._clock = clock

    def snapshot(
        self, kinds: Sequence[str], known_revision: int | None = None
    ) -> tuple[StorePosition, dict[str, list[msgspec.Raw]]]:
        """The position, and kind → all objects as JSON. Raises BadRequest for an unknown kind.

        The position contains the epoch of `known_revision`, too, so that the agent can compare it with its record.
        """
        _check_kinds(kinds)
        with self._store.read() as session:
            objects = {kind: _all_objects(session, kind) for kind in kinds}
            return _position(session, known_revision), objects

    def changes(
        self, after: int, kinds: Sequence[str], store_id: str = "", epoch: str = ""
    ) -> tuple[StorePosition, list[dict[str, Any]]]:
        """The newest position, and the changes since `after`, oldest first. Does not wait.

        Raises RevisionGone if the changes were pruned, if `after` is in the future, or if `store_id` is another database's
        or `epoch` is not the one of `after`.
        """
        _check_kinds(kinds)
        with self._store.read() as session:
            if (store_id and store_id != store_identity(session)) or (epoch and epoch != epoch_of(session, after)):
                raise RevisionGone("The revision is one of another database: list again.")
            records = changes_after(session, after, kinds)
            objects = {kind: _objects(session, kind, _existing_ids(records, kind)) for kind in kinds}
            found = (_change(record, objects) for record in records)
            return _position(session), [change for change in found if change is not None]

    def touched_since(self, revision: int) -> tuple[int, frozenset[str]]:
        """(newest revision, kinds that changed after `revision`). It is cheap and decides which long polls to wake.

        All kinds count as changed if the log does not contain the changes after `revision`.
        """
        with self._store.read() as session:
            newest = newest_revision(session)
            self._store.epochs.saw(newest)
            if newest == revision:
                return newest, frozenset()
            try:
                return newest, frozenset(record.kind for record in changes_after(session, revision, WATCHED_KINDS))
            except RevisionGone:
                return newest, frozenset(WATCHED_KINDS)

    def on_commit(self, listener: Callable[[int], None]) -> Callable[[], None]:
        """Calls `listener` after every commit of this process (`Store.on_commit`)."""
        return self._store.on_commit(listener)

    def port_provisioned(self, port_id: str, entity: str, binding_generation: int | None = None) -> None:
        """Raises NotFound."""
        with self._store.write(self._clock()) as session:
            _require(session, Port, port_id, "Port")
            ports.provisioned(session, port_id, entity, binding_generation)

    def port_unplugged(self, port_id: str, binding_generation: int | None = None) -> None:
        """Sets the port DOWN. Has no effect on a deleted port."""
        with self._store.write(self._clock()) as session:
            ports.unplugged(session, port_id, binding_generation)

    def report_server(self, server_id: str, *, boot_generation: int, power_state: str, fault: str | None) -> None:
        """Raises NotFound, BadRequest."""
        with self._store.write(self._clock()) as session:
            report_server(session, server_id, boot_generation, power_state, fault)

    def put_console(self, server_id: str, text: str) -> None:
        """Raises NotFound, PayloadTooLarge."""
        with self._store.write(self._clock()) as session:
            put_console(session, server_id, text)

    def heartbeat(self, binary: str, host: str, report: Mapping[str, Any]) -> None:
        """Stores a heartbeat. `report`: `agent_type`, `started_at` (datetime, UTC without zone), `configurations`."""
        now = self._clock()
        with self._store.write(now) as session:
            agents.heartbeat(session, binary, host, report, now)


def _position(session: Session, known_revision: int | None = None) -> StorePosition:
    revision = newest_revision(session)
    return StorePosition(
        store_id=store_identity(session),
        revision=revision,
        epoch=epoch_of(session, revision),
        known_epoch="" if known_revision is None else epoch_of(session, known_revision),
    )


def _check_kinds(kinds: Sequence[str]) -> None:
    for kind in kinds:
        if kind not in KINDS:
            raise BadRequest(
                "kinds", f"kinds: '{kind}' is not a kind that can be watched; the kinds are {', '.join(KINDS)}."
            )


def _require(session: Session, model: type[Any], row_id: str, name: str) -> None:
    if session.get(model, row_id) is None:
        raise NotFound(f"{name} {row_id} could not be found.")


def _all_objects(session: Session, kind: str) -> list[msgspec.Raw]:
    if kind == "port":
        return all_ports(session)
    found = (encoded(kind, shown) for shown in _shown(session, kind))
    return [one for one in found if one is not None]


def _shown(session: Session, kind: str) -> list[dict[str, Any]]:
    if kind == "server":
        return [server_json(row) for row in session.scalars(sa.select(Server).order_by(Server.id))]
    model = NETWORK_MODELS[kind]
    rows = session.scalars(sa.select(model).order_by(model.id).options(*LOADER_OPTIONS.get(kind, ()))).all()
    return render(session, rows, is_admin=True)


def _objects(session: Session, kind: str, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The existing objects among these, by id."""
    found: dict[str, dict[str, Any]] = {}
    for start in range(0, len(ids), IDS_PER_STATEMENT):
        for shown in _some(session, kind, ids[start : start + IDS_PER_STATEMENT]):
            found[shown["id"]] = shown
    return found


def _some(session: Session, kind: str, ids: Sequence[str]) -> list[dict[str, Any]]:
    if kind == "server":
        rows = session.scalars(sa.select(Server).where(Server.id.in_(ids)))
        return [server_json(row) for row in rows]
    model = NETWORK_MODELS[kind]
    found = session.scalars(sa.select(model).where(model.id.in_(ids)).options(*LOADER_OPTIONS.get(kind, ()))).all()
    return render(session, found, is_admin=True)


def _existing_ids(records: Sequence[ChangeRecord], kind: str) -> list[str]:
    return [record.object_id for record in records if record.kind == kind and not record.deleted]


def _change(record: ChangeRecord, objects: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """None if the object cannot be encoded."""
    shown = objects[record.kind].get(record.object_id)
    body = None if shown is None else encoded(record.kind, shown)
    if shown is not None and body is None:
        return None
    return {"revision": record.revision, "kind": record.kind, "id": record.object_id, "object": body}
