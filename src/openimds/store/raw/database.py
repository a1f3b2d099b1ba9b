"""The database without SQLAlchemy: connections, transactions and fixed statements on the driver itself.

The workers of the metadata API use it, because SQLAlchemy costs a process 25 MiB of memory, and much more time for a row
than the driver. A write of a watched table follows the rules of store/engine.py: it takes the next revision and adds a
row to `changes` for each object.
"""

from __future__ import annotations

import re
import sqlite3
import threading
from collections import deque
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
    """A parsed URL. The driver's `connect` takes `arguments`."""

    is_sqlite: bool
    arguments: Mapping[str, Any] = field(repr=False)


def without_password(url: str) -> str:
    """The URL for logs and errors."""
    return _PASSWORD.sub(r"\1:***@", url)


def database_url(url: str) -> DatabaseUrl:
    """Parses `sqlite:////var/lib/openimds/openimds.sqlite` or
    `postgresql+psycopg://user:password@host:5432/name?sslmode=require`.

    libpq receives the parameters of the query string unchanged. Raises StoreUnavailable for every other URL.
    """
    backend = url.partition(":")[0].partition("+")[0]
    if backend == "sqlite" and url.startswith(f"{url.partition(':')[0]}:///") and "?" not in url:
        return DatabaseUrl(is_sqlite=True, arguments={"database": url.partition(":///")[2]})
    if backend == "postgresql":
        return DatabaseUrl(is_sqlite=False, arguments=_libpq(url))
    raise StoreUnavailable(
        f"the store {without_password(url)} cannot be used: set [database] connection to sqlite:////path or to "
        "postgresql+psycopg://user:password@host/name"
    )


def _libpq(url: str) -> dict[str, str]:
    try:
        parts = urlsplit(url)
        given = {"host": parts.hostname, "port": parts.port, "user": parts.username, "password": parts.password}
    except ValueError as error:
        raise StoreUnavailable(f"the store {without_password(url)} cannot be used: {error}") from None
    found = {name: unquote(str(value)) for name, value in given.items() if value}
    found["dbname"] = parts.path.removeprefix("/")
    return {name: value for name, value in {**found, **dict(parse_qsl(parts.query))}.items() if value}


BUSY_TIMEOUT_SECONDS = 30
"""The time after which a writer stops waiting for other writers."""

LOCK_SILENCE_SECONDS = BUSY_TIMEOUT_SECONDS + 5
"""The time that PostgreSQL may stay silent while a writer waits for the write lock.

PostgreSQL's `lock_timeout` ends the wait earlier, so a longer silence means that the server is gone.
"""

_CACHE_KIB = 500
"""The page cache of one SQLite connection. It is small, because the kernel caches the file as well."""

_SNAPSHOT = {True: "BEGIN", False: "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"}
_WRITE_LOCK = {True: "BEGIN IMMEDIATE", False: f"BEGIN; SET LOCAL lock_timeout = '{BUSY_TIMEOUT_SECONDS}s'"}
_REVISION = Query(("value",), "revision_counter WHERE id = 1")


class FairLock:
    """`threading.Lock` has no order: a thread that releases it and requests it again gets it before a waiting thread."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._is_taken = False
        self._waiting: deque[threading.Event] = deque()

    def acquire(self, timeout: float) -> bool:
        """Waits for the lock for `timeout` seconds. Returns False if the thread did not get it."""
        turn = threading.Event()
        with self._mutex:
            if not self._is_taken:
                self._is_taken = True
                return True
            self._waiting.append(turn)
        if turn.wait(timeout):
            return True
        with self._mutex:
            if turn.is_set():  # the lock was handed over just after the timeout
                return True
            self._waiting.remove(turn)
            return False

    def release(self) -> None:
        """Hands the lock over to the thread that waits longest."""
        with self._mutex:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._is_taken = False


class Database:
    """A database of openimds. Threads may share the object; each process opens its own."""

    def __init__(self, url: str) -> None:
        """`url` has SQLAlchemy's form. Raises StoreUnavailable for a URL of another database."""
        where = database_url(url)
        self._url = url
        self._arguments = where.arguments
        self.is_sqlite = where.is_sqlite
        self._idle: list[Any] = []
        self._writing = FairLock()
        self._writer: int | None = None
        self._silent = False
        """Whether the server did not answer the last statement."""
        self._trying = threading.RLock()

    def close(self) -> None:
        """Closes all idle connections. The object can still be used afterwards."""
        while self._idle:
            self._idle.pop().close()

    def connect(self) -> Any:
        """Opens a DB-API connection in autocommit mode, which the caller closes. Raises StoreUnavailable."""
        with self.translated_errors():
            return _sqlite(self._arguments) if self.is_sqlite else _postgresql(self._arguments)

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """A read transaction on one consistent snapshot. Raises StoreUnavailable."""
        with self._transaction(_SNAPSHOT[self.is_sqlite]) as transaction:
            yield transaction

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """A write transaction. Raises StoreUnavailable, also if other writers need longer than BUSY_TIMEOUT_SECONDS."""
        with self.one_writer_here(), self._transaction(_WRITE_LOCK[self.is_sqlite]) as transaction:
            transaction.lock()
            yield transaction

    def revision(self) -> int:
        """The newest committed revision."""
        with self.read() as transaction:
            return transaction.revision()

    @contextmanager
    def one_writer_here(self) -> Iterator[None]:
        """A block that one thread of this process runs at a time. Writers queue here in their order, because SQLite's
        own waiting polls and can starve a writer.
        """
        if self._writer == threading.get_ident():
            raise RuntimeError(
                "a write transaction within a write transaction of the same thread would wait for itself"
            )
        if not self._writing.acquire(timeout=BUSY_TIMEOUT_SECONDS):
            raise self.unavailable(f"the store was locked for {BUSY_TIMEOUT_SECONDS} s")
        self._writer = threading.get_ident()
        try:
            yield
        finally:
            self._writer = None
            self._writing.release()

    @contextmanager
    def translated_errors(self) -> Iterator[None]:
        """A block in which errors of the driver become StoreUnavailable. Errors in a statement itself stay as they are."""
        with self.refused_while_silent():
            try:
                yield
            except Exception as error:
                if not _is_drivers(error) or _is_our_mistake(error):
                    raise
                raise self.unavailable(error) from error

    @contextmanager
    def refused_while_silent(self) -> Iterator[None]:
        """A block that uses the database. Raises StoreUnavailable immediately while the server is silent.

        One thread at a time then probes the server, so that a silent server does not occupy all threads.
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
            "check that the file exists, that its disk is not full and that this user may write to it"
            if self.is_sqlite
            else "check that the server runs, accepts connections there and has this user and database"
        )
        return StoreUnavailable(
            # PostgreSQL's error texts have several lines.
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
                with suppress(Exception):  # the first error is the one to report
                    connection.close()
                raise
            self._idle.append(connection)

    def _begun(self, begin: str) -> Any:
        """A connection with an open transaction. An idle connection may be closed by now, so another one is tried."""
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
    """Statements on one snapshot, or under the write lock. A list is a parameter of `IN :name`."""

    def __init__(self, connection: Any, *, is_sqlite: bool) -> None:
        self._connection = connection
        self._is_sqlite = is_sqlite

    def rows(self, query: Query, /, **parameters: object) -> Sequence[Row]:
        """The rows of a query, in no particular order."""
        cursor = self._connection.execute(query_of(query, is_sqlite=self._is_sqlite), self._bound(parameters))
        if not self._is_sqlite:
            found: list[Row] = cursor.fetchall()
            return found
        return rows_of_json(cursor.fetchone()[0])

    def run(self, text: str, /, **parameters: object) -> int:
        """Runs an INSERT, UPDATE or DELETE. Returns the number of rows that it changed."""
        cursor = self._connection.execute(statement_once(text, is_sqlite=self._is_sqlite), self._bound(parameters))
        return int(cursor.rowcount)

    def revision(self) -> int:
        """The newest revision in this snapshot."""
        return int(self.rows(_REVISION)[0][0])

    def lock(self) -> None:
        """Waits for the write lock: PostgreSQL's lock of the counter row. SQLite takes its lock at BEGIN IMMEDIATE."""
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
    # A database without tables is unavailable: SQLite's driver reports that as an OperationalError, too.
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
    """Whether the server did not answer in time. The class is compared by name, because psycopg is optional."""
    return type(error).__name__ in {"SilentServerError", "ConnectionTimeout"}
