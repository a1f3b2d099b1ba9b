"""limit and marker of collections, as in all OpenStack APIs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Annotated, Any, TypeVar
from urllib.parse import urlencode

from fastapi import Depends, Query

from openimds.resources.errors import BadRequest
from openimds.resources.query import Page

MAX_LIMIT = 1000
"""Maximum number of items in one response."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PageParams:
    """The query parameters `limit` and `marker`."""

    limit: int
    marker: str | None = None
    """The id of the last item of the previous page."""


def page_params(limit: Annotated[int | None, Query(ge=0)] = None, marker: str | None = None) -> PageParams:
    """FastAPI dependency. `limit=0` means MAX_LIMIT, as in Nova."""
    return PageParams(min(limit or MAX_LIMIT, MAX_LIMIT), marker or None)


Paging = Annotated[PageParams, Depends(page_params)]


def paginate(items: Sequence[T], params: PageParams, key: Callable[[T], str] = attrgetter("id")) -> Page[T]:
    """Returns at most `limit` items after the marker. Raises BadRequest if no item has the marker's id."""
    start = 0
    if params.marker is not None:
        keys = [key(item) for item in items]
        if params.marker not in keys:
            raise BadRequest("marker", f"marker [{params.marker}] not found")
        start = keys.index(params.marker) + 1
    return Page(items[start : start + params.limit], len(items) > start + params.limit)


def next_link(url: str, query: Sequence[tuple[str, str]], last_id: str) -> dict[str, Any]:
    """`{"rel": "next", "href": …}`: the query of the next page."""
    others = [(name, value) for name, value in query if name != "marker"]
    return {"rel": "next", "href": f"{url}?{urlencode([*others, ('marker', last_id)])}"}
