"""limit, marker and sort, as every OpenStack collection takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Annotated, Any, Generic, TypeVar
from urllib.parse import urlencode

from fastapi import Depends, Query

from openimds.resources.errors import BadRequest

MAX_LIMIT = 1000
"""The most that one answer lists; more is on the next page."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PageParams:
    limit: int
    marker: str | None = None
    """The id of the last item of the page before."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    items: Sequence[T]
    more: bool
    """Is there a page after it?"""


def page_params(limit: Annotated[int | None, Query(ge=0)] = None, marker: str | None = None) -> PageParams:
    """FastAPI dependency. `limit=0` is no limit of the client's own, as Nova has it."""
    return PageParams(min(limit or MAX_LIMIT, MAX_LIMIT), marker or None)


Paging = Annotated[PageParams, Depends(page_params)]


def paginate(items: Sequence[T], asked: PageParams, key: Callable[[T], str] = attrgetter("id")) -> Page[T]:
    """The items after the marker, at most `limit`. Raises BadRequest for a marker that is not in the collection."""
    start = 0
    if asked.marker is not None:
        keys = [key(item) for item in items]
        if asked.marker not in keys:
            raise BadRequest("marker", f"marker [{asked.marker}] not found")
        start = keys.index(asked.marker) + 1
    return Page(items[start : start + asked.limit], len(items) > start + asked.limit)


def next_link(url: str, query: Sequence[tuple[str, str]], last_id: str) -> dict[str, Any]:
    """`{"rel": "next", "href": …}`: the same question with another marker."""
    kept = [(name, value) for name, value in query if name != "marker"]
    return {"rel": "next", "href": f"{url}?{urlencode([*kept, ('marker', last_id)])}"}
