"""The instances whose documents a change affects. The metadata API polls it every few milliseconds.

A document depends on the server, its ports and their floating IPs (whose changes are changes of the port), the networks,
the subnets and whether a DHCP port serves them, and the names of security groups.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from openimds.resources.errors import StoreUnavailable
from openimds.resources.instance import ChangeSet
from openimds.store.change_kinds import ADDRESSING
from openimds.store.raw.database import Database, Transaction
from openimds.store.raw.epochs import epoch_at
from openimds.store.raw.statements import Query

KINDS = ("server", "port", "network", ADDRESSING, "security_group")
MANY = 5000
"""With more changes than this, all instances count as changed."""
_NEWEST = "SELECT value FROM revision_counter WHERE id = 1"
_COUNTER = Query(("value", "floor", "store_id"), "revision_counter WHERE id = 1")
_CHANGED = Query(
    ("kind", "object_id"),
    "(SELECT DISTINCT kind, object_id FROM changes WHERE revision > :revision AND kind IN :kinds LIMIT :many) AS changed",
)
_PLUGGED = Query(("attached_id",), "ports WHERE id IN :ids AND SUBSTR(attached_owner, 1, 8) = 'compute:'")
_RENAMED = Query(("id",), "security_groups WHERE id IN :ids AND updated_at > created_at")


class InstanceChanges:
    """Threads may share `after`. `newest` and `close` belong to one thread."""

    kinds = frozenset(KINDS)

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: Any = None
        self._data_version: int | None = None
        self._newest = 0

    def newest(self) -> int:
        """The newest revision, by at most one query on a connection of its own. Raises StoreUnavailable."""
        try:
            with self._database.translated_errors():
                return self._query_newest()
        except StoreUnavailable:
            self.close()
            raise

    def after(self, revision: int | None) -> ChangeSet:
        """The changes after `revision`. Raises StoreUnavailable.

        Everything counts as changed if `revision` is None or older than the oldest entry of the change log.
        """
        with self._database.read() as transaction:
            newest, floor, store_id = transaction.rows(_COUNTER)[0]
            return replace(
                _changes(transaction, revision, newest, floor),
                store_id=store_id,
                epoch=epoch_at(transaction, newest),
                known_epoch="" if revision is None else epoch_at(transaction, revision),
            )

    def close(self) -> None:
        connection, self._connection, self._data_version = self._connection, None, None
        if connection is not None:
            connection.close()

    def _query_newest(self) -> int:
        if self._connection is None:
            self._connection = self._database.connect()
        cursor = self._connection.cursor()
        try:
            if self._database.is_sqlite:
                # SQLite counts the commits of other connections in memory. An equal value saves reading the file.
                (version,) = cursor.execute("PRAGMA data_version").fetchone()
                if version == self._data_version:
                    return self._newest
                self._data_version = version
            cursor.execute(_NEWEST)
            (self._newest,) = cursor.fetchone()
        finally:
            cursor.close()
        return self._newest


def _changes(transaction: Transaction, revision: int | None, newest: int, floor: int) -> ChangeSet:
    if revision == newest:
        return ChangeSet(revision=newest)
    if revision is None or not floor <= revision <= newest:
        return ChangeSet(revision=newest, everything=True)
    changed = transaction.rows(_CHANGED, revision=revision, kinds=list(KINDS), many=MANY + 1)
    if len(changed) > MANY:
        return ChangeSet(revision=newest, everything=True)
    return _touched(transaction, newest, changed)


def _touched(transaction: Transaction, newest: int, changed: Iterable[tuple[str, str]]) -> ChangeSet:
    ids: dict[str, set[str]] = {kind: set() for kind in KINDS}
    for kind, object_id in changed:
        ids[kind].add(object_id)
    if ids["security_group"] and transaction.rows(_RENAMED, ids=list(ids["security_group"])):
        # A group was probably renamed, which is rare. Its instances are not looked up.
        return ChangeSet(revision=newest, everything=True)
    ports = list(ids["port"])
    plugged = {server_id for (server_id,) in transaction.rows(_PLUGGED, ids=ports)} if ports else set()
    return ChangeSet(
        revision=newest,
        instance_ids=frozenset(ids["server"] | plugged),
        port_ids=frozenset(ports),
        network_ids=frozenset(ids["network"] | ids[ADDRESSING]),
    )
