"""Where the store is: the URL that is configured, as its driver wants it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from openimds.resources.errors import StoreUnavailable

_PASSWORD = re.compile(r"(//[^:@/]*):[^@]*@")


@dataclass(frozen=True, slots=True)
class DatabaseUrl:
    """`arguments` are those of the driver's own `connect`."""

    is_sqlite: bool
    arguments: Mapping[str, Any] = field(repr=False)


def shown(url: str) -> str:
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
        f"the store {shown(url)} cannot be used: [database] connection is neither sqlite:////path nor "
        "postgresql+psycopg://user:password@host/name"
    )


def _libpq(url: str) -> dict[str, str]:
    try:
        parts = urlsplit(url)
        told = {"host": parts.hostname, "port": parts.port, "user": parts.username, "password": parts.password}
    except ValueError as error:
        raise StoreUnavailable(f"the store {shown(url)} cannot be used: {error}") from None
    found = {name: unquote(str(value)) for name, value in told.items() if value}
    found["dbname"] = parts.path.removeprefix("/")
    return {name: value for name, value in {**found, **dict(parse_qsl(parts.query))}.items() if value}
