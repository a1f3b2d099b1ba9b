"""The log of changes: recording the watched objects that a transaction changes, and reading them.

Changes are recorded from mapped objects when the session flushes them. A bulk UPDATE, INSERT or DELETE of a watched table
would not be recorded, so the session refuses it (`refuse_bulk_writes`). A function that writes thousands of rows goes round
the session and calls `record_bulk_write`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import ORMExecuteState, Session
from sqlalchemy.orm.util import identity_key

from openimds.resources.errors import RevisionGone
from openimds.store.models.base import Base, Change, Epoch, RevisionCounter, Watched

WATCHED_TABLES = frozenset(
    str(mapper.class_.__tablename__) for mapper in Base.registry.mappers if hasattr(mapper.class_, "watched")
)

_MODELS: dict[str, type[Watched]] = {
    mapper.class_.watch_kind: mapper.class_ for mapper in Base.registry.mappers if issubclass(mapper.class_, Watched)
}


@dataclass(frozen=True, slots=True)
class ChangeRecord:
    """One object that one revision wrote or deleted."""

    revision: int
    kind: str
    object_id: str
    deleted: bool


RECORDER = "change recorder"
"""The key of the transaction's ChangeRecorder in `Session.info`."""


class ChangeRecorder:
    """Records the watched objects that a transaction changes, at each flush."""

    def __init__(self, revision: int) -> None:
        self.revision = revision
        self.changes: dict[tuple[str, str], bool] = {}
        """(kind, id) → whether the object was deleted."""

    def before_flush(self, session: Session, _context: object, _instances: object) -> None:
        """SQLAlchemy's `before_flush` hook. Its cost depends on the objects of this flush alone, not on earlier ones."""
        written = [*session.new, *(row for row in session.dirty if session.is_modified(row))]
        keys: set[tuple[str, str]] = set()
        for row in session.deleted:
            keys |= self._record(row, deleted=True)
        for row in written:
            keys |= self._record(row, deleted=False)
        for row in [*written, *_loaded(session, keys)]:
            if isinstance(row, Watched) and row not in session.deleted and row.revision_number != self.revision:
                row.revision_number = self.revision

    def rows(self, at: datetime) -> list[dict[str, Any]]:
        """The rows of the table `changes` for this transaction."""
        return [
            {"revision": self.revision, "kind": kind, "object_id": object_id, "deleted": deleted, "at": at}
            for (kind, object_id), deleted in self.changes.items()
        ]

    def _record(self, row: object, *, deleted: bool) -> set[tuple[str, str]]:
        """Returns the keys of the objects that the row belongs to."""
        keys = set(_watched_by(row))
        for key in keys:
            if isinstance(row, Watched) and key == (row.watch_kind, row.id):
                self.changes[key] = deleted
            else:
                self.changes.setdefault(key, False)
        return keys


def record_bulk_write(
    session: Session, model: type[Watched], ids: Sequence[str], condition: sa.ColumnElement[bool]
) -> None:
    """Records that the caller writes rows of these objects in bulk, without mapped objects, and gives the objects the new
    revision. `condition` selects the same objects in SQL.
    """
    session.flush()
    recorder: ChangeRecorder = session.info[RECORDER]
    for object_id in ids:
        recorder.changes.setdefault((model.watch_kind, object_id), False)
    revision = sa.update(model).where(condition).values(revision_number=recorder.revision)
    session.connection().execute(revision)
    for row in list(session.identity_map.values()):
        if isinstance(row, model):
            session.expire(row)


def refuse_bulk_writes(state: ORMExecuteState) -> None:
    """SQLAlchemy's `do_orm_execute` hook. Raises RuntimeError: the caller must load the rows and change them."""
    if not (state.is_update or state.is_delete or state.is_insert):
        return
    table = getattr(state.statement, "table", None)
    if table is not None and table.name in WATCHED_TABLES:
        raise RuntimeError(f"a bulk write of the watched table {table.name} would not be recorded as a change")


def refuse_flush(_session: Session, _context: object, _instances: object) -> None:
    """The `before_flush` hook of read sessions. Raises RuntimeError, because a read session must not change rows."""
    raise RuntimeError("an object was changed in Store.read(); changes belong in Store.write()")


def newest_revision(session: Session) -> int:
    """The newest revision in the snapshot of this session."""
    return session.execute(sa.select(RevisionCounter.value).where(RevisionCounter.id == 1)).scalar_one()


def store_identity(session: Session) -> str:
    """The identity of the database, which a copy of it shares."""
    return session.execute(sa.select(RevisionCounter.store_id).where(RevisionCounter.id == 1)).scalar_one()


def epoch_of(session: Session, revision: int) -> str:
    """The id of the epoch of a revision. Empty if the database is older than its first epoch."""
    rows = sa.select(Epoch.id).where(Epoch.first_revision <= revision).order_by(Epoch.first_revision.desc())
    return session.scalar(rows.limit(1)) or ""


def changes_after(session: Session, revision: int, kinds: Sequence[str]) -> list[ChangeRecord]:
    """The newest change of each object of `kinds` after `revision`, oldest first.

    Raises RevisionGone if the log does not contain all changes after `revision`.
    """
    counter = session.execute(sa.select(RevisionCounter).where(RevisionCounter.id == 1)).scalar_one()
    if revision < counter.floor or revision > counter.value:
        raise RevisionGone(
            f"changes after revision {revision} are not known (stored: {counter.floor} to {counter.value}): list again"
        )
    rows = session.execute(
        sa.select(Change.revision, Change.kind, Change.object_id, Change.deleted)
        .where(Change.revision > revision, Change.kind.in_(kinds))
        .order_by(Change.revision)
    )
    newest: dict[tuple[str, str], ChangeRecord] = {}
    for row in rows:
        key = (row.kind, row.object_id)
        newest.pop(key, None)  # the object moves to the place of its newest change
        newest[key] = ChangeRecord(row.revision, row.kind, row.object_id, row.deleted)
    return list(newest.values())


def _watched_by(row: object) -> Iterator[tuple[str, str]]:
    watched = getattr(row, "watched", None)
    return watched() if watched else iter(())


def _loaded(session: Session, keys: Iterable[tuple[str, str]]) -> Iterator[object]:
    """The objects of these keys that the session has loaded."""
    for kind, object_id in keys:
        model = _MODELS.get(kind)
        row = session.identity_map.get(identity_key(model, object_id)) if model is not None else None
        if row is not None:
            yield row
