"""Connections, transactions and revisions.

Rules of this file:

1. A write transaction takes the next revision **first**, under the store's write lock (SQLite: BEGIN IMMEDIATE;
   PostgreSQL: the counter row's lock). So revision order is commit order, and a watcher that has read revision N has
   missed nothing below N.
2. A revision is only taken by a transaction that changes something watched.
3. Changes are noticed from mapped objects: a watched table is never written by a bulk UPDATE or DELETE, and a JSON
   column is given a new value, never changed in place.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from openimds.store.models import Base, Change, RevisionCounter, Watched

BUSY_TIMEOUT_SECONDS = 30


class StoreUnavailableError(Exception):
    """The database did not answer or cannot be written (full disk, read-only folder, server away)."""


class RevisionGoneError(Exception):
    """Changes after the asked revision are no longer, or not yet, known: list again."""


@dataclass(frozen=True, slots=True)
class ChangeRecord:
    """One object that one revision wrote or deleted."""

    revision: int
    kind: str
    object_id: str
    deleted: bool


class Store:
    """A database of openimds. Threads may share it; processes open their own."""

    def __init__(self, url: str) -> None:
        """`url` as SQLAlchemy has them: `sqlite:////var/lib/openimds/openimds.sqlite`, `postgresql+psycopg://…`."""
        self.url = sa.make_url(url)
        self._sqlite = self.url.get_backend_name() == "sqlite"
        options: dict[str, Any] = {"connect_args": {"timeout": BUSY_TIMEOUT_SECONDS}} if self._sqlite else {}
        self.engine = sa.create_engine(self.url, **options)
        if self._sqlite:
            event.listen(self.engine, "connect", _configure_sqlite)
        self._committed = threading.Condition()
        self._newest_here = 0

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Session]:
        """One consistent snapshot; nothing is written."""
        with _translated_errors(self.url), Session(self.engine, expire_on_commit=False) as session:
            if self._sqlite:
                session.connection().exec_driver_sql("BEGIN")
            else:
                session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            yield session
            session.rollback()

    @contextmanager
    def write(self, now: datetime | None = None) -> Iterator[Session]:
        """One transaction and, if anything watched changes in it, one revision. An exception undoes all of it."""
        at = now or utc_now()
        taken = 0
        with _translated_errors(self.url), Session(self.engine, expire_on_commit=False) as session:
            if self._sqlite:
                session.connection().exec_driver_sql("BEGIN IMMEDIATE")
            current = session.execute(
                sa.select(RevisionCounter.value).where(RevisionCounter.id == 1).with_for_update()
            ).scalar_one()
            recorder = _ChangeRecorder(current + 1)
            event.listen(session, "before_flush", recorder.before_flush)
            yield session
            session.flush()
            if recorder.changes:
                taken = current + 1
                session.execute(sa.update(RevisionCounter).where(RevisionCounter.id == 1).values(value=taken))
                session.execute(
                    sa.insert(Change),
                    [
                        {"revision": taken, "kind": kind, "object_id": object_id, "deleted": deleted, "at": at}
                        for (kind, object_id), deleted in recorder.changes.items()
                    ],
                )
            session.commit()
        if taken:
            with self._committed:
                self._newest_here = max(self._newest_here, taken)
                self._committed.notify_all()

    def revision(self) -> int:
        """The newest committed revision."""
        with self.read() as session:
            return newest_revision(session)

    def wait_beyond(self, revision: int, timeout_seconds: float) -> None:
        """Sleep until this process commits a revision beyond `revision`, or the time is over.

        Other processes' commits are not announced here: a caller that must hear of them asks again at short intervals.
        """
        with self._committed:
            self._committed.wait_for(lambda: self._newest_here > revision, timeout_seconds)

    def prune_changes(self, keep: timedelta, now: datetime | None = None) -> int:
        """Forget changes older than `keep`; a watcher from before then lists again. Returns how many were forgotten."""
        before = (now or utc_now()) - keep
        with self.write() as session:
            newest_old = session.scalar(sa.select(sa.func.max(Change.revision)).where(Change.at < before))
            if newest_old is None:
                return 0
            session.execute(sa.update(RevisionCounter).where(RevisionCounter.id == 1).values(floor=newest_old))
            pruned = session.execute(sa.delete(Change).where(Change.revision <= newest_old))
            return int(getattr(pruned, "rowcount", 0))


def newest_revision(session: Session) -> int:
    """The newest revision in this session's snapshot."""
    return session.execute(sa.select(RevisionCounter.value).where(RevisionCounter.id == 1)).scalar_one()


def changes_after(session: Session, revision: int, kinds: Sequence[str]) -> list[ChangeRecord]:
    """What happened after `revision` to objects of `kinds`, oldest first, each object once: by its newest change.

    Raises RevisionGoneError when that cannot be told.
    """
    counter = session.execute(sa.select(RevisionCounter).where(RevisionCounter.id == 1)).scalar_one()
    if revision < counter.floor or revision > counter.value:
        raise RevisionGoneError(
            f"changes after revision {revision} are not known (kept: {counter.floor} to {counter.value}): list again"
        )
    rows = session.scalars(
        sa.select(Change).where(Change.revision > revision, Change.kind.in_(kinds)).order_by(Change.revision)
    )
    newest: dict[tuple[str, str], ChangeRecord] = {}
    for row in rows:
        key = (row.kind, row.object_id)
        newest.pop(key, None)  # the object moves to the place of its newest change
        newest[key] = ChangeRecord(row.revision, row.kind, row.object_id, row.deleted)
    return list(newest.values())


def utc_now() -> datetime:
    """UTC without a zone, as the tables hold it."""
    return datetime.now(UTC).replace(tzinfo=None)


class _ChangeRecorder:
    """Notes, flush by flush, which watched objects a transaction touches."""

    def __init__(self, revision: int) -> None:
        self.revision = revision
        self.changes: dict[tuple[str, str], bool] = {}

    def before_flush(self, session: Session, _context: object, _instances: object) -> None:
        for row in session.deleted:
            for key in _watched_by(row):
                own = isinstance(row, Watched) and key == (row.watch_kind, row.id)
                self.changes[key] = own or self.changes.get(key, False)
        for row in [*session.new, *session.dirty]:
            if row in session.new or session.is_modified(row):
                for key in _watched_by(row):
                    self.changes.setdefault(key, False)
        self._stamp(session)

    def _stamp(self, session: Session) -> None:
        for row in [*session.new, *session.identity_map.values()]:
            if isinstance(row, Watched) and row not in session.deleted and (row.watch_kind, row.id) in self.changes:
                row.revision_number = self.revision


def _watched_by(row: object) -> Iterator[tuple[str, str]]:
    watched = getattr(row, "watched", None)
    return watched() if watched else iter(())


def _configure_sqlite(connection: Any, _record: object) -> None:
    # The driver would open transactions by itself and too late; BEGIN is said by Store.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


@contextmanager
def _translated_errors(url: sa.URL) -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        raise StoreUnavailableError(
            f"the store {url.render_as_string(hide_password=True)} cannot be used: {error.orig}; "
            "check that it is there, that its disk is not full and that this user may write to it"
        ) from error


__all__ = [
    "Base",
    "ChangeRecord",
    "RevisionGoneError",
    "Store",
    "StoreUnavailableError",
    "changes_after",
    "newest_revision",
    "utc_now",
]
