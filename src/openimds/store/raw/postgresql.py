"""Connections to PostgreSQL with a limit on the time that the server may stay silent.

libpq has time limits for the connection set-up and for unacknowledged data. It has none for a server that accepts a
statement and does not answer, for example because its disk hangs: TCP keeps the connection up. This module is the only one
that imports psycopg, which is an optional dependency of 14 MiB.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any, TypeVar

import psycopg
from psycopg.types.string import TextLoader

SILENCE_SECONDS = 10.0
"""A server that sends nothing for this long while a statement runs is not available."""
_LIMITS = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 10_000,
}
"""libpq's own limits, in seconds, and in milliseconds for tcp_user_timeout. The URL of the database may change them."""

_T = TypeVar("_T")


class SilentServerError(psycopg.OperationalError):
    """The server sent nothing within the limit. The outcome of the statement is unknown, and the connection is closed."""


class LimitedConnection(psycopg.Connection[Any]):
    """Raises SilentServerError when the server sends nothing for `silence_seconds` during a statement."""

    silence_seconds: float | None = None
    """None means SILENCE_SECONDS. A statement that waits for a lock needs more."""

    def wait(self, gen: Generator[Any, Any, _T], *args: Any, **kwargs: Any) -> _T:
        """Waits for the result of a statement. psycopg calls it for each one (psycopg.Connection.wait)."""
        return super().wait(self._limited(gen), *args, **kwargs)

    def _limited(self, gen: Generator[Any, Any, _T]) -> Generator[Any, Any, _T]:
        """The generator with a time limit. psycopg sends it a false value several times a second while the socket is not
        ready.
        """
        limit = self.silence_seconds or SILENCE_SECONDS
        deadline = time.monotonic() + limit
        try:
            awaited = next(gen)
            while True:
                ready = yield awaited
                if ready:
                    deadline = time.monotonic() + limit
                elif time.monotonic() >= deadline:
                    self.pgconn.finish()
                    raise SilentServerError(f"the server did not answer for {limit:g} s")
                awaited = gen.send(ready)
        except StopIteration as end:
            result: _T = end.value
            return result


def connect(arguments: dict[str, Any], *, autocommit: bool) -> LimitedConnection:
    """Opens a connection with these arguments of psycopg.connect. Raises psycopg.OperationalError."""
    return LimitedConnection.connect(**{**_LIMITS, **arguments}, autocommit=autocommit)


def connect_for_raw_rows(arguments: dict[str, Any]) -> LimitedConnection:
    """A connection in autocommit mode that returns JSON values as text."""
    connection = connect(arguments, autocommit=True)
    connection.adapters.register_loader("json", TextLoader)
    return connection
