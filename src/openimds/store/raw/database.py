"""Where the store is: the URL that is configured, as its driver wants it.

The database as the metadata API's workers use it: a few fixed statements, straight to the driver.

They have it without SQLAlchemy, which costs a process 25 MiB and a row many times what its driver takes. Whoever writes
what is watched keeps to the rules of engine.py: the next revision, and a row of `changes` for each object.
"""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from openimds.resources.errors import StoreUnavailable
from openimds.store.raw.statements import Query, Row, query_of, rows_of_json, statement_once

_PASSWORD = re.compile(r"(//[^:@/]*):[^@]*@")


@dataclass(frozen=True, slots=True)
class DatabaseUrl:
    """`arguments` are those of the driver's own `connect`."""

    is_sqlite: bool
    arguments: Mapping[str, Any] = field(repr=False)


def without_password(url: str) -> str:
    """Without its password."""
    return _PASSWORD.sub(r"\1:***@", url)


def database_url(url: str) -> DatabaseUrl:
    """`sqlite:////var/lib/openimds/openimds.sqlite`, `postgresql+psycopg://user:password@host:5432/name?sslmode=require`.

    What is behind `?` goes to libpq as it is. Raises StoreUnavailable for anything else.
    """
    backend = url.partition(":")[0].partition("+")[0]
    if backend == "sqlite" and url.startswith(f"{url.partition(':')[0]}:///") and "?" not in url:
        return DatabaseUrl(is_sqlite=True, arguments={"database": url.partition(":///")[2]})
    if backend == "postgresql":
        return DatabaseUrl(is_sqlite=False, arguments=_libpq(url))
    raise StoreUnavailable(
        f"the store {without_password(url)} cannot be used: [database] connection is neither sqlite:////path nor "
        "postgresql+psycopg://user:password@host/name"
    )


def _libpq(url: str) -> dict[str, str]:
    try:
        parts = urlsplit(url)
        told = {"host": parts.hostname, "port": parts.port, "user": parts.username, "password": parts.password}
    except ValueError as error:
        raise StoreUnavailable(f"the store {without_password(url)} cannot be used: {error}") from None
    found = {name: unquote(str(value)) for name, value in told.items() if value}
    found["dbname"] = parts.path.removeprefix("/")
    return {name: value for name, value in {**found, **dict(parse_qsl(parts.query))}.items() if value}


BUSY_TIMEOUT_SECONDS = 30
"""How long a writer waits for other writers before it says that the store is locked."""

LOCK_SILENCE_SECONDS = BUSY_TIMEOUT_SECONDS + 5
"""How long PostgreSQL may stay silent while a writer waits for the write lock. Its own limit ends the wait before."""

_CACHE_KIB = 500
"""Of one connection to SQLite: the kernel has the file in memory as well."""

_SNAPSHOT = {True: "BEGIN", False: "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"}
_WRITE_LOCK = {True: "BEGIN IMMEDIATE", False: f"BEGIN; SET LOCAL lock_timeout = '{BUSY_TIMEOUT_SECONDS}s'"}
_REVISION = Query(("value",), "revision_counter WHERE id = 1")


class Database:
    """Threads may share it; processes open their own."""

    def __init__(self, url: str) -> None:
        """`url` as SQLAlchemy has them. Raises StoreUnavailable for what is none of the two databases."""
        where = database_url(url)
        self._url = url
        self._arguments = where.arguments
        self.is_sqlite = where.is_sqlite
        self._idle: list[Any] = []
        self._writing = threading.Lock()
        self._writer: int | None = None
        self._silent = False
        """The last statement that ended did so because the server did not answer."""
        self._trying = threading.RLock()

    def close(self) -> None:
        """Close all connections that nobody uses. The database may be used again afterwards."""
        while self._idle:
            self._idle.pop().close()

    def connect(self) -> Any:
        """A DB-API connection of the caller's own, in autocommit mode. Raises StoreUnavailable."""
        with self.translated_errors():
            return _sqlite(self._arguments) if self.is_sqlite else _postgresql(self._arguments)

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """One consistent snapshot. Raises StoreUnavailable."""
        with self._transaction(_SNAPSHOT[self.is_sqlite]) as transaction:
            yield transaction

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """All or nothing. Raises StoreUnavailable, also when others write for longer than BUSY_TIMEOUT_SECONDS."""
        with self.one_writer_here(), self._transaction(_WRITE_LOCK[self.is_sqlite]) as transaction:
            transaction.lock()
            yield transaction

    def revision(self) -> int:
        """The newest committed revision."""
        with self.read() as transaction:
            return transaction.revision()

    @contextmanager
    def one_writer_here(self) -> Iterator[None]:
        """Threads of one process queue here: SQLite's own waiting is by polling, and starves the unlucky."""
        if self._writer == threading.get_ident():
            raise RuntimeError("a write inside a write on one thread: it would wait for itself")
        if not self._writing.acquire(timeout=BUSY_TIMEOUT_SECONDS):
            raise self.unavailable(f"it was locked for {BUSY_TIMEOUT_SECONDS} s")
        self._writer = threading.get_ident()
        try:
            yield
        finally:
            self._writer = None
            self._writing.release()

    @contextmanager
    def translated_errors(self) -> Iterator[None]:
        """A block in which the driver's own errors become StoreUnavailable, but for our own mistakes."""
        with self.refused_while_silent():
            try:
                yield
            except Exception as error:
                if not _is_drivers(error) or _is_our_mistake(error):
                    raise
                raise self.unavailable(error) from error

    @contextmanager
    def refused_while_silent(self) -> Iterator[None]:
        """A block that uses the database. Raises StoreUnavailable at once while the server is silent.

        One thread at a time may try then, so that a server that does not answer does not occupy all threads.
        """
        trying = self._silent
        if trying and not self._trying.acquire(blocking=False):
            raise self.unavailable("the server did not answer the last statement")
        try:
            yield
            self._silent = False
        except StoreUnavailable as error:
            if error.__cause__ is not None and _is_silence(error.__cause__):
                self._silent = True
            raise
        finally:
            if trying:
                self._trying.release()

    def unavailable(self, reason: object) -> StoreUnavailable:
        check = (
            "check that it is there, that its disk is not full and that this user may write to it"
            if self.is_sqlite
            else "check that the server runs, takes connections there and has this user and database"
        )
        return StoreUnavailable(
            # PostgreSQL's own sentences have several lines.
            f"the store {without_password(self._url)} cannot be used: {' '.join(str(reason).split())}; {check} ([database] "
            "connection says where)"
        )

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[Transaction]:
        with self.translated_errors():
            connection = self._begun(begin)
            try:
                yield Transaction(connection, is_sqlite=self.is_sqlite)
                connection.execute("COMMIT")
            except BaseException:
                with suppress(Exception):  # what went wrong first is what is told
                    connection.close()
                raise
            self._idle.append(connection)

    def _begun(self, begin: str) -> Any:
        """A connection on which `begin` was said. One that was idle may have been cut off meanwhile."""
        while self._idle:
            with suppress(IndexError):
                connection = self._idle.pop()
                try:
                    connection.execute(begin)
                except Exception as error:
                    connection.close()
                    if self.is_sqlite or not _is_drivers(error):
                        raise
                else:
                    return connection
        connection = self.connect()
        try:
            connection.execute(begin)
        except BaseException:
            connection.close()
            raise
        return connection


class Transaction:
    """Statements on one snapshot, or under the write lock. Parameters that are lists are for `IN :name`."""

    def __init__(self, connection: Any, *, is_sqlite: bool) -> None:
        self._connection = connection
        self._is_sqlite = is_sqlite

    def rows(self, query: Query, /, **parameters: object) -> Sequence[Row]:
        """In no order that could be relied on."""
        cursor = self._connection.execute(query_of(query, is_sqlite=self._is_sqlite), self._bound(parameters))
        if not self._is_sqlite:
            found: list[Row] = cursor.fetchall()
            return found
        return rows_of_json(cursor.fetchone()[0])

    def run(self, text: str, /, **parameters: object) -> int:
        """INSERT, UPDATE or DELETE; how many rows it touched."""
        cursor = self._connection.execute(statement_once(text, is_sqlite=self._is_sqlite), self._bound(parameters))
        return int(cursor.rowcount)

    def revision(self) -> int:
        """The newest revision in this snapshot."""
        return int(self.rows(_REVISION)[0][0])

    def lock(self) -> None:
        """Wait for the write lock, which PostgreSQL's counter row is; SQLite's was taken at BEGIN."""
        if not self._is_sqlite:
            self._connection.silence_seconds = LOCK_SILENCE_SECONDS
            self._connection.execute("SELECT value FROM revision_counter WHERE id = 1 FOR UPDATE")
            self._connection.silence_seconds = None

    def _bound(self, parameters: dict[str, object]) -> dict[str, object]:
        if not self._is_sqlite:
            return parameters
        return {
            name: msgspec.json.encode(value).decode() if isinstance(value, list) else value
            for name, value in parameters.items()
        }


def _is_drivers(error: Exception) -> bool:
    return isinstance(error, sqlite3.Error) or any(
        kind.__module__.partition(".")[0] == "psycopg" for kind in type(error).__mro__
    )


def _is_our_mistake(error: Exception) -> bool:
    names = {kind.__name__ for kind in type(error).__mro__}
    # That there are no tables yet is one of the database's states, as SQLite's driver has it.
    return bool(names & {"IntegrityError", "ProgrammingError"}) and "UndefinedTable" not in names


def _sqlite(arguments: Any) -> sqlite3.Connection:
    connection: sqlite3.Connection = sqlite3.connect(
        **arguments, timeout=BUSY_TIMEOUT_SECONDS, check_same_thread=False, isolation_level=None
    )
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
    return connection


def _postgresql(arguments: Any) -> Any:
    from openimds.store.raw import postgresql  # noqa: PLC0415 - psycopg is an optional dependency

    return postgresql.connect_for_raw_rows(arguments)


def _is_silence(error: BaseException) -> bool:
    """Whether the server did not answer in time. psycopg's class cannot be imported here: it is optional."""
    return type(error).__name__ in {"SilentServerError", "ConnectionTimeout"}
