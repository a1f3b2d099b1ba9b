"""All ports at once, as the network API shows them to an administrator, without an object for each row.

A cloud has tens of thousands of ports, and agents list them at their start: mapped objects would take ten times as long.
Columns are read as the text that the database keeps, what many ports have in common is read once, and each port becomes
JSON before the next is read: a list of so many objects would cost memory, and the collector's time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import msgspec
import sqlalchemy as sa
import structlog
from sqlalchemy.orm import Session

from openimds.resources.text import json_document
from openimds.store.models.network import IPAllocation, Port
from openimds.store.network.serializers import port_json

log = structlog.get_logger(__name__)

_ENCODE = msgspec.json.Encoder().encode
_MEMO = 8192
_ROWS = 1000
"""Fetched at a time."""


def all_ports(session: Session) -> list[msgspec.Raw]:
    """Each as JSON, in the order of their ids."""
    addresses = _addresses(session)
    columns = sa.inspect(Port).local_table.columns
    readers = [(column.key, _READERS.get(type(column.type))) for column in columns]
    asked = sa.select(*[_as_kept(column) for column in columns]).order_by(Port.id)
    shown = []
    for row in session.execute(asked, execution_options={"yield_per": _ROWS}):
        values = {
            key: value if reader is None else reader(value) for (key, reader), value in zip(readers, row, strict=True)
        }
        port = SimpleNamespace(**values, fixed_ips=addresses.get(values["id"], ()))
        shown.append(encoded("port", port_json(port, is_admin=True)))  # type: ignore[arg-type]
    return [port for port in shown if port is not None]


def encoded(kind: str, shown: Mapping[str, Any]) -> msgspec.Raw | None:
    """The object as JSON. None if it cannot be encoded: the log names it, and agents see all others."""
    try:
        return msgspec.Raw(_ENCODE(shown))
    except (TypeError, ValueError, OverflowError) as error:
        log.warning("object encoding failed", kind=kind, id=shown["id"], reason=str(error))
        return None


def _addresses(session: Session) -> dict[str, list[Any]]:
    asked = sa.select(IPAllocation.port_id, IPAllocation.subnet_id, IPAllocation.ip_address)
    found: defaultdict[str, list[Any]] = defaultdict(list)
    for row in session.execute(asked.order_by(IPAllocation.position)):
        found[row.port_id].append(row)
    return found


def _as_kept(column: Any) -> sa.ColumnElement[Any]:
    return sa.cast(column, sa.Text) if type(column.type) in _READERS else column


_READERS: dict[type[Any], Callable[[str], Any]] = {
    sa.JSON: lru_cache(_MEMO)(json_document),
    sa.DateTime: lru_cache(_MEMO)(datetime.fromisoformat),
}
