"""Servers: list, create, change, delete. A list selects ids first and loads the rows of one page only."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from openimds.resources import compute as nouns
from openimds.resources.caller import Caller
from openimds.resources.compute import Requester, ServerQuery
from openimds.resources.errors import BadRequest, Conflict, Forbidden, NotFound
from openimds.store.compute.interfaces import (
    interface_value,
    interfaces,
    plug,
    resolve_nics,
    resolve_security_groups,
    unplug_all,
    unplug_one,
)
from openimds.store.compute.server_create import create_servers
from openimds.store.compute.server_records import server_records
from openimds.store.engine import Store, utc_now
from openimds.store.models.compute import Server, ServerAction, ServerConsole, ServerPassword
from openimds.store.models.network import IPAllocation, Port, SecurityGroup
from openimds.store.network.ports import ports_of_device

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
"""Columns by Nova's sort keys."""


def select_ids(session: Session, query: ServerQuery) -> tuple[list[str], bool]:
    """(ids of one page, whether more follow). Raises BadRequest for a wrong marker, sort key or pattern."""
    rows = session.execute(_statement(query)).all()
    ids = _matching(session, query, [(row.id, row.name, row.tags, row.flavor) for row in rows])
    start = 0
    if query.marker is not None:
        if query.marker not in ids:
            raise BadRequest("marker", f"marker [{query.marker}] not found")
        start = ids.index(query.marker) + 1
    return ids[start : start + query.limit], len(ids) > start + query.limit


def _statement(query: ServerQuery) -> sa.Select[Any]:
    statement = sa.select(Server.id, Server.name, Server.tags, Server.flavor)
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
            statement = statement.where(column == value)
    if query.statuses:
        statement = statement.where(Server.status.in_(query.statuses))
    if query.changed_since is not None:
        statement = statement.where(Server.updated_at >= query.changed_since)
    if query.changed_before is not None:
        statement = statement.where(Server.updated_at <= query.changed_before)
    return statement.order_by(*_order(query.sort))


def _order(sort: Sequence[tuple[str, bool]]) -> list[Any]:
    order: list[Any] = []
    for key, descending in sort or (("created_at", True),):
        if key not in SORT_COLUMNS:
            raise BadRequest("sort_key", f"servers cannot be sorted by {key}; use one of {', '.join(SORT_COLUMNS)}")
        order.append(SORT_COLUMNS[key].desc() if descending else SORT_COLUMNS[key].asc())
    return [*order, Server.id.desc()]


def _matching(
    session: Session, query: ServerQuery, rows: Sequence[tuple[str, str, list[str], dict[str, Any]]]
) -> list[str]:
    """The ids of the rows that match patterns and tags. SQLite and PostgreSQL have no common SQL for these."""
    name = _pattern("name", query.name)
    ids = [
        server_id
        for server_id, server_name, tags, flavor in rows
        if (name is None or name.search(server_name))
        and (query.flavor_id is None or flavor["id"] == query.flavor_id)
        and _tags_fit(query, set(tags))
    ]
    for field, pattern, version in (("ip", query.ip, 4), ("ip6", query.ip6, 6)):
        regex = _pattern(field, pattern)
        if regex is not None:
            addresses = _addresses(session, ids)
            ids = [
                server_id
                for server_id in ids
                if any((":" in text) == (version == 6) and regex.search(text) for text in addresses[server_id])
            ]
    return ids


def _tags_fit(query: ServerQuery, tags: set[str]) -> bool:
    return (
        set(query.tags_all) <= tags
        and (not query.tags_any or bool(set(query.tags_any) & tags))
        and (not query.not_tags_all or not set(query.not_tags_all) <= tags)
        and not set(query.not_tags_any) & tags
    )


def _addresses(session: Session, ids: Sequence[str]) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    rows = sa.select(Port.attached_id, IPAllocation.ip_address).join(IPAllocation, IPAllocation.port_id == Port.id)
    for server_id, address in session.execute(rows.where(Port.attached_id.in_(ids))):
        found[server_id].append(address)
    return found


def _is_costly(pattern: str) -> bool:
    """Returns True if the time of Python's backtracking search may exceed the third power of a name's length."""
    plain = re.sub(r"\\.|\[\^?\]?[^\]]*\]", "x", pattern, flags=re.DOTALL)
    repeats = len(re.findall(r"[*+{]", plain))
    return (
        repeats > MAX_REPEATS
        or re.search(r"\\[1-9]", pattern) is not None
        or re.search(r"\)[*+{?]|\(\?", plain) is not None
    )


def _pattern(field: str, pattern: str | None) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    if _is_costly(pattern):
        raise BadRequest(field, f"{field} is a regular expression with more than two repetitions, or a repeated group")
    try:
        return re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise BadRequest(field, f"{field} is not a regular expression: {error}") from error


MAX_REPEATS = 2
"""Maximum number of repetitions in a filter by a regular expression."""

LOCKED_BY_OWNER = "owner"
LOCKED_BY_ADMIN = "admin"
UNLOCK = "os_compute_api:os-lock-server:unlock:unlock_override"


class Servers:
    """A server of another project does not exist for a requester (NotFound)."""

    def __init__(self, store: Store, agent_down_seconds: float) -> None:
        self._store = store
        self._down_after = timedelta(seconds=agent_down_seconds)

    def create(self, new: nouns.NewServer, requester: Requester) -> list[nouns.ServerRecord]:
        now = utc_now()
        with self._store.write() as session:
            rows = create_servers(session, new, requester, now, self._down_after)
            for row in rows:
                record_action(session, row, "create", requester)
            session.flush()
            return server_records(session, rows)

    def get(self, server_id: str, requester: Requester) -> nouns.ServerRecord:
        with self._store.read() as session:
            return server_records(session, [own_server(session, server_id, requester, "os_compute_api:servers:show")])[
                0
            ]

    def update(self, server_id: str, fields: Mapping[str, Any], requester: Requester) -> nouns.ServerRecord:
        """`fields` are columns: name, description, hostname, access_ip_v4, access_ip_v6, metadata_, tags."""
        with self._store.write() as session:
            row = unlocked_server(session, server_id, requester, "os_compute_api:servers:update")
            changed = {name: value for name, value in fields.items() if getattr(row, name) != value}
            for name, value in changed.items():
                setattr(row, name, value)
            if changed:
                row.updated_at = utc_now()
            session.flush()
            return server_records(session, [row])[0]

    def change_mapping(
        self, server_id: str, change: Callable[[Mapping[str, str]], Mapping[str, str]], requester: Requester
    ) -> Mapping[str, str]:
        """Replaces the server's metadata by the result of `change`, in one transaction. Returns the new metadata."""
        with self._store.write() as session:
            row = unlocked_server(session, server_id, requester, "os_compute_api:server-metadata:update")
            after = dict(change(row.metadata_))
            if after != row.metadata_:
                row.metadata_, row.updated_at = after, utc_now()
            return after

    def change_tags(
        self, server_id: str, change: Callable[[Sequence[str]], Sequence[str]], requester: Requester
    ) -> tuple[str, ...]:
        with self._store.write() as session:
            row = unlocked_server(session, server_id, requester, "os_compute_api:os-server-tags:update")
            after = list(change(row.tags))
            if after != row.tags:
                row.tags = after
            return tuple(after)

    def delete(self, server_id: str, requester: Requester) -> None:
        """Deletes the row and leaves a tombstone in the change log. Agents then remove the instance."""
        with self._store.write() as session:
            row = unlocked_server(session, server_id, requester, "os_compute_api:servers:delete")
            record_action(session, row, "delete", requester)
            unplug_all(session, row, utc_now())
            session.delete(row)

    def set_locked(self, server_id: str, locked: bool, requester: Requester) -> None:
        """As in Nova, the owner's lock of a locked server has no effect. Raises Forbidden if the owner unlocks an
        administrator's lock.
        """
        verb = "lock" if locked else "unlock"
        with self._store.write() as session:
            row = own_server(session, server_id, requester, f"os_compute_api:os-lock-server:{verb}")
            is_owner = row.project_id == requester.project_id
            if locked and row.locked and is_owner:
                return
            if not locked and row.locked_by == LOCKED_BY_ADMIN and not requester.caller.may(UNLOCK, row.project_id):
                raise Forbidden(
                    f"Instance {server_id} is locked by an administrator: only an administrator unlocks it."
                )
            record_action(session, row, verb, requester)
            row.locked = locked
            row.locked_by = (LOCKED_BY_OWNER if is_owner else LOCKED_BY_ADMIN) if locked else None

    # NICs ---------------------------------------------------------------------------------------------------------

    def interfaces(self, server_id: str, requester: Requester) -> list[nouns.Interface]:
        with self._store.read() as session:
            return interfaces(
                session, own_server(session, server_id, requester, "os_compute_api:os-attach-interfaces:list")
            )

    def attach(self, server_id: str, nic: nouns.NicRequest, requester: Requester) -> nouns.Interface:
        """Raises Conflict if the server has no host, BadRequest for a port or network that does not exist."""
        caller = requester.caller
        with self._store.write() as session:
            row = unlocked_server(session, server_id, requester, "os_compute_api:os-attach-interfaces:create")
            if not row.host:
                raise Conflict(f"Cannot 'attach_interface' instance {server_id}: it has no host.")
            requested = None if nic.network_id is None and nic.port_id is None else (nic,)
            nics = resolve_nics(session, caller, requested, project_id=row.project_id, optional=False)
            record_action(session, row, "attach_interface", requester)
            port = plug(session, caller, row, nics, utc_now())[0]
            return interface_value(port, nic.tag)

    def detach(self, server_id: str, port_id: str, requester: Requester) -> None:
        with self._store.write() as session:
            row = unlocked_server(session, server_id, requester, "os_compute_api:os-attach-interfaces:delete")
            unplug_one(session, row, port_id, utc_now())
            record_action(session, row, "detach_interface", requester)

    def security_groups(self, server_id: str, requester: Requester) -> Sequence[Mapping[str, str]]:
        """The security groups of the server: [{"id", "name", "description"}]."""
        with self._store.read() as session:
            row = own_server(session, server_id, requester, "os_compute_api:os-security-groups:list")
            groups = [(group, session.get(SecurityGroup, group["id"])) for group in row.security_groups]
            return [{**group, "description": found.description if found else ""} for group, found in groups]

    def change_security_group(self, server_id: str, name: str, member: bool, requester: Requester) -> None:
        """Adds the server's ports to a group of the project, or removes them from it."""
        verb = "add" if member else "remove"
        with self._store.write() as session:
            row = unlocked_server(session, server_id, requester, f"os_compute_api:os-security-groups:{verb}")
            caller = Caller(project_id=row.project_id)
            group = resolve_security_groups(session, caller, (name,), utc_now())[0]
            others = [other for other in row.security_groups if other["id"] != group.id]
            if not member and len(others) == len(row.security_groups):
                raise NotFound(f"Security group {name} is not associated with the instance {server_id}.")
            row.security_groups = [*others, {"id": group.id, "name": group.name}] if member else others
            for port in ports_of_device(session, server_id):
                other_ids = [other for other in port.security_group_ids if other != group.id]
                port.security_group_ids = [*other_ids, group.id] if member else other_ids

    # Console and password -----------------------------------------------------------------------------------------

    def console(self, server_id: str, requester: Requester) -> str:
        """The tail of the console, or an empty text. Raises Conflict for a server that never had a host."""
        with self._store.read() as session:
            row = own_server(session, server_id, requester, "os_compute_api:os-console-output")
            output = session.get(ServerConsole, server_id)
            if not row.host:
                raise Conflict(f"Instance {server_id} is not ready: it has no host and no console.")
            return output.output if output else ""

    def password(self, server_id: str, requester: Requester) -> str:
        with self._store.read() as session:
            own_server(session, server_id, requester, "os_compute_api:os-server-password:show")
            row = session.get(ServerPassword, server_id)
            return row.password if row else ""

    def clear_password(self, server_id: str, requester: Requester) -> None:
        with self._store.write() as session:
            own_server(session, server_id, requester, "os_compute_api:os-server-password:clear")
            row = session.get(ServerPassword, server_id)
            if row is not None:
                session.delete(row)

    # Actions, counts, lists ---------------------------------------------------------------------------------------

    def actions(self, server_id: str, requester: Requester) -> list[nouns.InstanceAction]:
        """The actions of a server, newest first. The actions of a deleted server are still stored."""
        with self._store.read() as session:
            statement = sa.select(ServerAction).where(ServerAction.server_id == server_id)
            rows = session.scalars(statement.order_by(ServerAction.started_at.desc())).all()
            if session.get(Server, server_id) is not None or not rows:
                own_server(session, server_id, requester, "os_compute_api:os-instance-actions:list")
            found = [_action(row) for row in rows if requester.is_admin or row.project_id == requester.project_id]
            if rows and not found:
                raise _not_found(server_id)
            return found

    def count(self, project_id: str) -> Mapping[str, int]:
        """The resources that a project uses: instances, cores, ram (MiB)."""
        with self._store.read() as session:
            flavors = session.scalars(sa.select(Server.flavor).where(Server.project_id == project_id)).all()
        return {
            "instances": len(flavors),
            "cores": sum(flavor["vcpus"] for flavor in flavors),
            "ram": sum(flavor["ram"] for flavor in flavors),
        }

    def list(self, query: nouns.ServerQuery) -> tuple[list[nouns.ServerRecord], bool]:
        """(servers of one page, whether more follow)."""
        with self._store.read() as session:
            ids, more = select_ids(session, query)
            rows = {row.id: row for row in session.scalars(sa.select(Server).where(Server.id.in_(ids)))}
            return server_records(session, [rows[server_id] for server_id in ids]), more


def own_server(session: Session, server_id: str, requester: Requester, action: str) -> Server:
    """The server. Raises NotFound for one of another project, and Forbidden if the policy does not permit the action."""
    row = session.get(Server, server_id)
    if row is None or not (requester.is_admin or row.project_id == requester.project_id):
        raise _not_found(server_id)
    requester.authorize(action, row.project_id)
    return row


def unlocked_server(session: Session, server_id: str, requester: Requester, action: str) -> Server:
    """The server. Raises the errors of `own_server`, and Conflict for a locked server unless the requester is an
    administrator.
    """
    row = own_server(session, server_id, requester, action)
    if row.locked and not requester.is_admin:
        raise Conflict(f"Instance {server_id} is locked")
    return row


def record_action(session: Session, row: Server, action: str, requester: Requester) -> None:
    if session.get(ServerAction, (requester.request_id, row.id)) is None:
        session.add(
            ServerAction(
                request_id=requester.request_id,
                server_id=row.id,
                action=action,
                user_id=requester.user_id,
                project_id=row.project_id,
                started_at=utc_now(),
            )
        )


def _action(row: ServerAction) -> nouns.InstanceAction:
    return nouns.InstanceAction(
        request_id=row.request_id,
        server_id=row.server_id,
        action=row.action,
        user_id=row.user_id,
        project_id=row.project_id,
        started_at=row.started_at,
    )


def _not_found(server_id: str) -> NotFound:
    return NotFound(f"Instance {server_id} could not be found.")
