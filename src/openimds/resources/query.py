"""How a collection is asked for: filters, order, one page of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ListQuery:
    """`?name=a&name=b&sort_key=name&sort_dir=desc&limit=10&marker=…`, parsed."""

    filters: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Attribute → the values of which one must be its own."""
    sort: tuple[tuple[str, bool], ...] = ()
    """(attribute, descending?); the id decides between equals."""
    limit: int | None = None
    marker: str | None = None
    """The id of the item before the page (`reverse`: after it)."""
    reverse: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """Some items of a collection, in order."""

    items: tuple[dict[str, Any], ...]
    more: bool
    """Are there others beyond, in the direction that was asked for?"""
