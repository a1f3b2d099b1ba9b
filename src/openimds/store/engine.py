"""Connections, transactions and revisions.

Rules of this file:

1. A write transaction takes the next revision **first**, under the write lock of the store (SQLite: BEGIN IMMEDIATE;
   PostgreSQL: the lock of the counter row). Revision order is therefore commit order, and a watcher that has received
   revision N has missed nothing below N.
2. Only a transaction that changes a watched object takes a revision.
3. Changes are recorded from mapped objects. A watched table is written in bulk only with `record_bulk_write`, and a JSON
   column gets a new value instead of a change in place. Passwords of guests are written without mapped objects
   (raw/metadata_store.py), which records the change itself.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from openimds.resources.errors import BadRequest
from openimds.resources.errors import RevisionGone as RevisionGoneError
from openimds.resources.errors import StoreUnavailable as StoreUnavailableError
from openimds.resources.text import json_document
from openimds.store.change_log import (
    RECORDER,
    ChangeRecord,
    ChangeRecorder,
    changes_after,
    newest_revision,
    refuse_bulk_writes,
    refuse_flush,
)
from openimds.store.models.base import Base, Change, Epoch, RevisionCounter
from openimds.store.raw.database import BUSY_TIMEOUT_SECONDS, LOCK_SILENCE_SECONDS, Database, database_url
from openimds.store.raw.epochs import EpochTracker, new_epoch_id

POOL_SIZE = 20
MAX_OVERFLOW = 40
"""POOL_SIZE and MAX_OVERFLOW together exceed the threads of a web server, so that no request waits for a connection."""
POOL_TIMEOUT_SECONDS = 5.0


class Store:
    """A database of openimds. Threads may share the object; each process opens its own."""

    def __init__(self, url: str) -> None:
        """`url` has SQLAlchemy's form: `sqlite:////var/lib/openimds/openimds.sqlite`, `postgresql+psycopg://…`."""
        self.url = sa.make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.engine = sa.create_engine(self.url, **_engine_options(url, sqlite=self.is_sqlite))
        if self.is_sqlite:
            event.listen(self.engine, "connect", _configure_sqlite)
        self.database = Database(self.url.render_as_string(hide_password=False))
        """The same database without mapped objects."""
        self.epochs = EpochTracker()
        self._listeners: list[Callable[[int], None]] = []

    def close(self) -> None:
        """Closes all connections. Later calls open new ones."""
        self.engine.dispose()
        self.database.close()

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A read transaction on one consistent snapshot. Raises StoreUnavailable."""
        with self.translated_errors(), Session(self.engine, expire_on_commit=False) as session:
            event.listen(session, "before_flush", refuse_flush)
            self._begin_reading(session)
            yield session

    @contextmanager
    def write(self, now: datetime | None = None) -> Iterator[Session]:
        """A write transaction, and one revision if it changes a watched object. An exception rolls it back.

        Raises StoreUnavailable, also if other writers need longer than BUSY_TIMEOUT_SECONDS.
        """
        with self.database.one_writer_here(), self.translated_errors():
            taken = yield from self._transaction(now or utc_now())
        if taken:
            self._announce(taken)

    def revision(self) -> int:
        """The newest committed revision."""
        with self.read() as session:
            return newest_revision(session)

    def on_commit(self, listener: Callable[[int], None]) -> Callable[[], None]:
        """Calls `listener(revision)` after every revision that this process commits, on the thread of the write.

        The listener must return quickly and must not raise. Returns the function that removes it.
        """
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def prune_changes(self, keep: timedelta, now: datetime | None = None) -> int:
        """Deletes changes older than `keep` and returns their number. A watcher of an older revision lists again."""
        before = (now or utc_now()) - keep
        with self.write() as session:
            newest_old = session.scalar(sa.select(sa.func.max(Change.revision)).where(Change.at < before))
            if newest_old is None:
                return 0
            session.execute(sa.update(RevisionCounter).where(RevisionCounter.id == 1).values(floor=newest_old))
            pruned = session.execute(sa.delete(Change).where(Change.revision <= newest_old))
            return int(getattr(pruned, "rowcount", 0))

    def _transaction(self, at: datetime) -> Generator[Session, None, int]:
        """The body of `write`. Returns the new revision, or 0 if there is none."""
        with Session(self.engine, expire_on_commit=False) as session:
            current = self._lock_for_writing(session)
            recorder = ChangeRecorder(current + 1)
            session.info[RECORDER] = recorder
            event.listen(session, "before_flush", recorder.before_flush)
            event.listen(session, "do_orm_execute", refuse_bulk_writes)
            yield session
            session.flush()
            if recorder.changes:
                if self.epochs.starts_with(recorder.revision):
                    session.execute(sa.delete(Epoch).where(Epoch.first_revision >= recorder.revision))
                    session.add(Epoch(first_revision=recorder.revision, id=new_epoch_id()))
                    session.flush()
                counter = sa.update(RevisionCounter).where(RevisionCounter.id == 1).values(value=recorder.revision)
                session.execute(counter)
                session.execute(sa.insert(Change), recorder.rows(at))
            session.commit()
            if recorder.changes:
                self.epochs.committed(recorder.revision)
            return recorder.revision if recorder.changes else 0

    def _begin_reading(self, session: Session) -> None:
        if self.is_sqlite:
            session.connection().exec_driver_sql("BEGIN")
        else:
            session.connection(execution_options={"isolation_level": "REPEATABLE READ", "postgresql_readonly": True})

    def _lock_for_writing(self, session: Session) -> int:
        """Waits for the write lock. Returns the newest revision."""
        if self.is_sqlite:
            session.connection().exec_driver_sql("BEGIN IMMEDIATE")
        else:
            session.execute(sa.text(f"SET LOCAL lock_timeout = '{BUSY_TIMEOUT_SECONDS}s'"))
        counter = sa.select(RevisionCounter.value).where(RevisionCounter.id == 1).with_for_update()
        with self._silence_of_a_lock(session):
            return session.execute(counter).scalar_one()

    @contextmanager
    def _silence_of_a_lock(self, session: Session) -> Iterator[None]:
        """A block in which PostgreSQL may stay silent for as long as a writer waits for the write lock."""
        connection: Any = session.connection().connection.driver_connection
        if not self.is_sqlite:
            connection.silence_seconds = LOCK_SILENCE_SECONDS
        try:
            yield
        finally:
            if not self.is_sqlite:
                connection.silence_seconds = None

    def _announce(self, revision: int) -> None:
        for listener in tuple(self._listeners):
            listener(revision)

    @contextmanager
    def translated_errors(self) -> Iterator[None]:
        """A block in which errors of the database become StoreUnavailable. Errors in a statement itself stay as they are."""
        with self.database.refused_while_silent():
            try:
                yield
            except (IntegrityError, ProgrammingError):
                raise  # an error of this program, not a state of the database
            except DataError as error:
                # PostgreSQL checks the range of integers and the length of texts, which SQLite does not.
                message = "A value of the request is out of the range of its attribute."
                raise BadRequest("body", message) from error
            except DBAPIError as error:
                raise self.database.unavailable(error.orig) from error.orig
            except PoolTimeoutError as error:
                raise self.database.unavailable(error) from error


def utc_now() -> datetime:
    """The time in UTC without a zone, as the tables contain it."""
    return datetime.now(UTC).replace(tzinfo=None)


def _engine_options(url: str, *, sqlite: bool) -> dict[str, Any]:
    options: dict[str, Any] = {
        "pool_size": POOL_SIZE,
        "max_overflow": MAX_OVERFLOW,
        "pool_timeout": POOL_TIMEOUT_SECONDS,
        "json_deserializer": json_document,  # earlier releases stored lone surrogates, which responses cannot carry
    }
    if sqlite:
        return {**options, "connect_args": {"timeout": BUSY_TIMEOUT_SECONDS, "check_same_thread": False}}
    return {**options, "pool_pre_ping": True, "creator": _postgresql_connection(url)}


def _postgresql_connection(url: str) -> Callable[[], Any]:
    arguments = dict(database_url(url).arguments)

    def connect() -> Any:
        from openimds.store.raw import postgresql  # noqa: PLC0415 - psycopg is an optional dependency

        return postgresql.connect(arguments, autocommit=False)

    return connect


def _configure_sqlite(connection: Any, _record: object) -> None:
    # The driver would begin a transaction at the first write. Store sends BEGIN itself, before the first read.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


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
