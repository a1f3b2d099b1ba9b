"""Rows by many ids, in as many statements as it takes: databases limit how long a list one statement may have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

CHUNK = 500


def rows_of(session: Session, asked: sa.Select[Any], column: Any, ids: Iterable[str]) -> Iterator[Any]:
    """The first column of each row of `asked` whose `column` is one of `ids`: the mapped object, or the value."""
    wanted = sorted(ids)
    for start in range(0, len(wanted), CHUNK):
        yield from session.scalars(asked.where(column.in_(wanted[start : start + CHUNK])))
