"""Queries of a collection: filters, sorting and pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

MAX_SORT_KEYS = 16
"""Maximum number of sort keys in a query. The condition of a page has a term for each pair of keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListQuery:
    """The parsed query string `?name=a&name=b&sort_key=name&sort_dir=desc&limit=10&marker=…`."""

    filters: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Attribute → accepted values."""
    sort: tuple[tuple[str, bool], ...] = ()
    """(attribute, descending) pairs. Equal items are sorted by id."""
    limit: int | None = None
    marker: str | None = None
    """The id of the item before the page, or after it if `reverse` is True."""
    reverse: bool = False


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Consecutive items of a sorted collection."""

    items: Sequence[T]
    more: bool
    """True if further items follow, in the direction of the query."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorePosition:
    """A state of the database, in its history."""

    store_id: str
    """The identity of the database. A copy has the same."""
    revision: int
    epoch: str = ""
    """The epoch of `revision`. Empty if the database is older than its first epoch."""
    known_epoch: str = ""
    """The epoch of the revision that the client knew before."""
