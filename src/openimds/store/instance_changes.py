"""Which instances' documents a change may show in: what the metadata API asks every few milliseconds.

A document tells of the server, its ports, their floating addresses (a change of which is a change of its port), and of
their networks and subnets, among which whether a DHCP port serves the subnet, and of security groups' names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from openimds.resources.errors import RevisionGone, StoreUnavailable
from openimds.resources.network import DEVICE_OWNER_COMPUTE_PREFIX
from openimds.resources.touched import Touched
from openimds.store.changes import ChangeRecord, changes_after, newest_revision
from openimds.store.engine import Store
from openimds.store.models import ADDRESSING, Port, SecurityGroup

KINDS = ("server", "port", "network", ADDRESSING, "security_group")
MANY = 5000
"""More changes than these at once are everything."""
_CHUNK = 500
_COUNTER = "SELECT value FROM revision_counter WHERE id = 1"


class InstanceChanges:
    """Threads may share `after`; `newest` is of one thread."""

    kinds = frozenset(KINDS)

    def __init__(self, store: Store) -> None:
        self._store = store
        self._connection: Any = None
        self._data_version: int | None = None
        self._newest = 0

    def newest(self) -> int:
        """The newest revision, at the price of one question on a connection of its own. Raises StoreUnavailable."""
        try:
            return self._look()
        except (DBAPIError, self._store.engine.dialect.loaded_dbapi.Error) as error:
            self.close()
            with self._store.translated_errors():
                self._store.revision()  # it says why, or it was only the connection
            raise StoreUnavailable(f"the store's connection broke: {error}") from None

    def after(self, revision: int | None) -> Touched:
        """What changed after `revision`; everything, when it is None or so far back. Raises StoreUnavailable."""
        with self._store.read() as session:
            newest = newest_revision(session)
            if revision == newest:
                return Touched(revision=newest)
            try:
                records = changes_after(session, revision, KINDS) if revision is not None else None
            except RevisionGone:
                records = None
            if records is None or len(records) > MANY:
                return Touched(revision=newest, everything=True)
            return _touched(session, newest, records)

    def close(self) -> None:
        connection, self._connection, self._data_version = self._connection, None, None
        if connection is not None:
            connection.close()

    def _look(self) -> int:
        if self._connection is None:
            self._connection = self._store.engine.raw_connection()
            self._connection.detach()
            if not self._store.is_sqlite:
                self._connection.dbapi_connection.autocommit = True
        cursor = self._connection.cursor()
        try:
            if self._store.is_sqlite:
                # SQLite counts other connections' commits in memory: nothing is read from disk while it stays.
                (version,) = cursor.execute("PRAGMA data_version").fetchone()
                if version == self._data_version:
                    return self._newest
                self._data_version = version
            cursor.execute(_COUNTER)
            (self._newest,) = cursor.fetchone()
        finally:
            cursor.close()
        return self._newest


def _touched(session: Session, newest: int, records: Iterable[ChangeRecord]) -> Touched:
    ids = {kind: {record.object_id for record in records if record.kind == kind} for kind in KINDS}
    if any(changed > made for _id, made, changed in _security_groups(session, ids["security_group"])):
        # Renamed, for all that is known: rare, and not asked further.
        return Touched(revision=newest, everything=True)
    ports = _rows(session, ids["port"], Port.id, Port.device_owner, Port.device_id)
    plugged = {device for _id, owner, device in ports if owner.startswith(DEVICE_OWNER_COMPUTE_PREFIX)}
    return Touched(
        revision=newest,
        instance_ids=frozenset(ids["server"] | plugged),
        port_ids=frozenset(ids["port"]),
        network_ids=frozenset(ids["network"] | ids[ADDRESSING]),
    )


def _rows(session: Session, ids: Iterable[str], key: Any, *columns: Any) -> Iterator[Any]:
    wanted = sorted(ids)
    for start in range(0, len(wanted), _CHUNK):
        yield from session.execute(sa.select(key, *columns).where(key.in_(wanted[start : start + _CHUNK])))


def _security_groups(session: Session, ids: Iterable[str]) -> Iterator[Any]:
    return _rows(session, ids, SecurityGroup.id, SecurityGroup.created_at, SecurityGroup.updated_at)
