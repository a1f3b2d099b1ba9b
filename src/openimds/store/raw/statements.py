"""SQL for both databases. Results have the same form whichever database returned them.

SQLite returns all rows of a query as one JSON text. Its driver releases the GIL at every row, and a thread waits
milliseconds for the GIL beside a busy event loop. With one text per query the GIL is released once.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from sys import intern
from typing import Any

import msgspec

Row = tuple[Any, ...]

_PARAMETER = re.compile(r"(?<![\w:]):(\w+)")
_LIST = re.compile(r"IN :(\w+)")
_BYTES = re.compile(r"HEX\(([\w.]+)\)")


@dataclass(frozen=True, slots=True)
class Query:
    """`SELECT columns FROM source`.

    `:name` is a parameter, and `IN :name` takes a list. A column of bytes is selected as `HEX(column)`, whose value for
    NULL differs between the databases. The value of a JSON column is text, and that of a boolean may be 0 or 1.
    """

    columns: tuple[str, ...]
    source: str


def statement_of(text: str, *, is_sqlite: bool) -> str:
    """The SQL text in the dialect of the database."""
    if is_sqlite:
        return _LIST.sub(r"IN (SELECT value FROM json_each(:\1))", text)
    text = _BYTES.sub(r"encode(\1, 'hex')", _LIST.sub(r"= ANY(:\1)", text.replace("%", "%%")))
    return _PARAMETER.sub(r"%(\1)s", text)


@lru_cache(maxsize=256)
def query_of(query: Query, *, is_sqlite: bool) -> str:
    columns = ", ".join(query.columns)
    selected = f"json_group_array(json_array({columns}))" if is_sqlite else columns
    text = f"SELECT {selected} FROM {query.source}"  # noqa: S608 - constants of this program
    return statement_of(text, is_sqlite=is_sqlite)


statement_once = lru_cache(maxsize=256)(statement_of)


def shared(text: str | None) -> str | None:
    """The interned copy of a text that many instances share, such as the name of a zone or the id of a network."""
    return None if text is None else intern(text)


def json_value(text: str) -> Any:
    """The value of a JSON column. A lone surrogate of an earlier release stays, because nova's documents show it too."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return json.loads(text)


def rows_of_json(text: str) -> list[Row]:
    """The rows in SQLite's result of a `Query`."""
    return _decode(text)


_decode = msgspec.json.Decoder(list[tuple[Any, ...]]).decode
