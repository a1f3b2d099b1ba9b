"""Which servers a query means, in which order, and which page of them. Answers ids: rows are loaded for one page only."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from openimds.resources.compute import ServerQuery
from openimds.resources.errors import BadRequest
from openimds.store.models.compute import Server
from openimds.store.models.network import IPAllocation, Port

SORT_COLUMNS: Mapping[str, Any] = {
    "created_at": Server.created_at,
    "updated_at": Server.updated_at,
    "launched_at": Server.launched_at,
    "display_name": Server.name,
    "name": Server.name,
    "uuid": Server.id,
    "id": Server.id,
    "host": Server.host,
    "hostname": Server.hostname,
    "image_ref": Server.image_id,
    "vm_state": Server.status,
    "status": Server.status,
    "task_state": Server.task_state,
    "user_id": Server.user_id,
    "project_id": Server.project_id,
    "key_name": Server.key_name,
    "availability_zone": Server.availability_zone,
    "launch_index": Server.launch_index,
    "locked": Server.locked,
}
"""Nova's sort keys → columns."""


def select_ids(session: Session, query: ServerQuery) -> tuple[list[str], bool]:
    """One page of ids, and whether there is more. Raises BadRequest for a bad marker, sort key or pattern."""
    rows = session.execute(_question(query)).all()
    kept = _matching(session, query, [(row.id, row.name, row.tags, row.flavor) for row in rows])
    start = 0
    if query.marker is not None:
        if query.marker not in kept:
            raise BadRequest("marker", f"marker [{query.marker}] not found")
        start = kept.index(query.marker) + 1
    return kept[start : start + query.limit], len(kept) > start + query.limit


def _question(query: ServerQuery) -> sa.Select[Any]:
    asked = sa.select(Server.id, Server.name, Server.tags, Server.flavor)
    equal: tuple[tuple[Any, Any], ...] = (
        (Server.project_id, query.project_id),
        (Server.host, query.host),
        (Server.image_id, query.image_id),
        (Server.user_id, query.user_id),
        (Server.key_name, query.key_name),
        (Server.availability_zone, query.availability_zone),
        (Server.reservation_id, query.reservation_id),
        (Server.id, query.server_id),
        (Server.hostname, query.hostname),
        (Server.locked, query.locked),
    )
    for column, value in equal:
        if value is not None:
            asked = asked.where(column == value)
    if query.statuses:
        asked = asked.where(Server.status.in_(query.statuses))
    if query.changed_since is not None:
        asked = asked.where(Server.updated_at >= query.changed_since)
    if query.changed_before is not None:
        asked = asked.where(Server.updated_at <= query.changed_before)
    return asked.order_by(*_order(query.sort))


def _order(sort: Sequence[tuple[str, bool]]) -> list[Any]:
    order: list[Any] = []
    for key, descending in sort or (("created_at", True),):
        if key not in SORT_COLUMNS:
            raise BadRequest("sort_key", f"servers are not sorted by {key}; take one of {', '.join(SORT_COLUMNS)}")
        order.append(SORT_COLUMNS[key].desc() if descending else SORT_COLUMNS[key].asc())
    return [*order, Server.id.desc()]


def _matching(
    session: Session, query: ServerQuery, rows: Sequence[tuple[str, str, list[str], dict[str, Any]]]
) -> list[str]:
    """What a database cannot be asked alike on SQLite and PostgreSQL: patterns and lists."""
    name = _pattern("name", query.name)
    kept = [
        server_id
        for server_id, known, tags, flavor in rows
        if (name is None or name.search(known))
        and (query.flavor_id is None or flavor["id"] == query.flavor_id)
        and _tags_fit(query, set(tags))
    ]
    for field, pattern, version in (("ip", query.ip, 4), ("ip6", query.ip6, 6)):
        wanted = _pattern(field, pattern)
        if wanted is not None:
            addresses = _addresses(session, kept)
            kept = [
                server_id
                for server_id in kept
                if any((":" in text) == (version == 6) and wanted.search(text) for text in addresses[server_id])
            ]
    return kept


def _tags_fit(query: ServerQuery, tags: set[str]) -> bool:
    return (
        set(query.tags_all) <= tags
        and (not query.tags_any or bool(set(query.tags_any) & tags))
        and (not query.not_tags_all or not set(query.not_tags_all) <= tags)
        and not set(query.not_tags_any) & tags
    )


def _addresses(session: Session, ids: Sequence[str]) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    asked = sa.select(Port.attached_id, IPAllocation.ip_address).join(IPAllocation, IPAllocation.port_id == Port.id)
    for server_id, address in session.execute(asked.where(Port.attached_id.in_(ids))):
        found[server_id].append(address)
    return found


def _pattern(field: str, pattern: str | None) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        return re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise BadRequest(field, f"is no regular expression: {error}") from error
