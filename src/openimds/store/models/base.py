"""What all tables have in common. Ids are UUIDs as text, times are UTC without zone, addresses canonical text.

A class whose `watched()` yields (kind, id) pairs tells the store what a watcher hears of when one of its rows is
written: a row of its own kind, or the row that owns it (an allocation belongs to its port).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import JSON, String
from sqlalchemy.orm import DeclarativeBase, Mapped

UUID = String(36)
NAME = String(255)


class Base(DeclarativeBase):
    """All tables."""

    type_annotation_map = {dict[str, Any]: JSON, list[Any]: JSON}  # noqa: RUF012 - SQLAlchemy's own spelling


class Watched:
    """A row that watchers hear of. `watch_kind` is the kind's name on the wire (docs/design/watch.md)."""

    watch_kind: str
    id: Mapped[str]
    revision_number: Mapped[int]

    def watched(self) -> Iterator[tuple[str, str]]:
        yield self.watch_kind, self.id
