"""SQL that both databases take, and its answers, which have one shape whichever of the two gave them.

SQLite gives all rows of a query as one JSON text. Its driver lets go of Python's interpreter at every row, and a thread
that has let go of it beside a busy event loop gets it back milliseconds later; this way it does so once a query, and
SQLite works while the event loop does.
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

    `:name` is a parameter, `IN :name` one that is a list; bytes are asked for as `HEX(column)`, which of no bytes at all
    is not NULL everywhere. JSON columns are answered as text, truth values as such or as 0 and 1.
    """

    columns: tuple[str, ...]
    source: str


def statement_of(text: str, *, is_sqlite: bool) -> str:
    """In the database's own dialect."""
    if is_sqlite:
        return _LIST.sub(r"IN (SELECT value FROM json_each(:\1))", text)
    text = _BYTES.sub(r"encode(\1, 'hex')", _LIST.sub(r"= ANY(:\1)", text.replace("%", "%%")))
    return _PARAMETER.sub(r"%(\1)s", text)


@lru_cache(maxsize=256)
def query_of(query: Query, *, is_sqlite: bool) -> str:
    columns = ", ".join(query.columns)
    asked = f"json_group_array(json_array({columns}))" if is_sqlite else columns
    text = f"SELECT {asked} FROM {query.source}"  # noqa: S608 - both are this program's own
    return statement_of(text, is_sqlite=is_sqlite)


statement_once = lru_cache(maxsize=256)(statement_of)


def shared(text: str | None) -> str | None:
    """The one copy in memory of a text that many instances have alike: a zone's name, a key, a network's id."""
    return None if text is None else intern(text)


def json_value(text: str) -> Any:
    """The value of a JSON column. Documents show a lone surrogate of an old row as nova does."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return json.loads(text)


def rows_of_json(text: str) -> list[Row]:
    """What SQLite answered."""
    return _decode(text)


_decode = msgspec.json.Decoder(list[tuple[Any, ...]]).decode
