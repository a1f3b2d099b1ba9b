"""Query parameters, headers and bodies of Neutron's API as FastAPI dependencies, and the links of a page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Body, Depends, Header, Request

from openimds.control_api import context
from openimds.control_api.network.validators import boolean
from openimds.resources.caller import Caller
from openimds.resources.errors import BadRequest, NotSupported
from openimds.resources.query import MAX_SORT_KEYS, ListQuery, Page

QueryPairs = Sequence[tuple[str, str]]

RESERVED = frozenset({"fields", "limit", "marker", "page_reverse", "sort_key", "sort_dir"})
MAX_LIMIT = 1000
"""Maximum number of items of a page. A request without `limit` receives all items, which is Neutron's default."""


def list_query(pairs: QueryPairs) -> ListQuery:
    """Parses the query string. Raises BadRequest for an invalid parameter."""
    filters: dict[str, list[str]] = {}
    for name, value in pairs:
        if name not in RESERVED:
            filters.setdefault(name, []).append(value)
    return ListQuery(
        filters={name: tuple(values) for name, values in filters.items()},
        sort=_sort(_values(pairs, "sort_key"), _values(pairs, "sort_dir")),
        limit=_limit(_values(pairs, "limit")),
        marker=next(iter(_values(pairs, "marker")), None),
        reverse=any(boolean("page_reverse", value) for value in _values(pairs, "page_reverse")),
    )


def requested_fields(pairs: QueryPairs) -> frozenset[str]:
    """The names in `?fields=id&fields=name`. Empty if the client wants all attributes."""
    return frozenset(_values(pairs, "fields"))


def select_fields(item: Mapping[str, Any], fields: frozenset[str]) -> dict[str, Any]:
    """The item with only these attributes, or with all of them if `fields` is empty."""
    return {name: value for name, value in item.items() if not fields or name in fields}


def page_links(url: str, pairs: QueryPairs, query: ListQuery, page: Page[dict[str, Any]]) -> list[dict[str, str]]:
    """`[{"rel": "next", "href": …}, {"rel": "previous", "href": …}]`. Pages that do not exist have no link."""
    if query.limit is None or not page.items:
        return []
    others = [(name, value) for name, value in pairs if name not in ("marker", "page_reverse")]
    found = []
    if page.more or query.reverse:
        found.append({"rel": "next", "href": _href(url, [*others, ("marker", page.items[-1]["id"])])})
    if (query.marker is not None and not query.reverse) or (query.reverse and page.more):
        first = [*others, ("marker", page.items[0]["id"]), ("page_reverse", "True")]
        found.append({"rel": "previous", "href": _href(url, first)})
    return found


def _href(url: str, pairs: Iterable[tuple[str, str]]) -> str:
    return f"{url}?{urlencode(list(pairs))}"


def _values(pairs: QueryPairs, wanted: str) -> list[str]:
    return [value for name, value in pairs if name == wanted]


def _sort(keys: Sequence[str], directions: Sequence[str]) -> tuple[tuple[str, bool], ...]:
    if len(keys) > MAX_SORT_KEYS:
        raise BadRequest("sort_key", f"sort_key: there are more than {MAX_SORT_KEYS}.", kind="HTTPBadRequest")
    if len(directions) > len(keys):
        raise BadRequest("sort_dir", "The number of sort_keys and sort_dirs must be same.", kind="HTTPBadRequest")
    for direction in directions:
        if direction not in ("asc", "desc"):
            message = f"sort_dir: '{direction}' is not a direction; there are asc and desc."
            raise BadRequest("sort_dir", message, kind="HTTPBadRequest")
    padded = [*directions, *["asc"] * (len(keys) - len(directions))]
    return tuple((key, direction == "desc") for key, direction in zip(keys, padded, strict=True))


def _limit(values: Sequence[str]) -> int | None:
    if not values:
        return None
    if not re.fullmatch(r"[0-9]{1,18}", values[0]):
        raise BadRequest("limit", f"limit: '{values[0]}' is not a whole number of 0 or more.", kind="HTTPBadRequest")
    return min(int(values[0]), MAX_LIMIT) or None


def network_caller(caller: context.AuthenticatedCaller) -> Caller:
    """FastAPI dependency: the caller for the store. Agents have the rights of administrators."""
    return caller.network_caller


def query_params(request: Request) -> QueryPairs:
    """FastAPI dependency: the query parameters in order, including repeated ones."""
    return request.query_params.multi_items()


def expected_revision(if_match: Annotated[str | None, Header()] = None) -> int | None:
    """FastAPI dependency: `If-Match: revision_number=5` → 5. The request fails if the resource has another revision
    (extension `revision-if-match`).
    """
    if if_match is None:
        return None
    found = re.fullmatch(r"revision_number=([0-9]{1,18})", if_match.strip())
    if found is None:
        raise BadRequest("If-Match", "If-Match: it must be like revision_number=5.")
    return int(found[1])


def reject_if_match(request: Request, if_match: Annotated[str | None, Header()] = None) -> None:
    """FastAPI dependency of routes without support of If-Match. Ignoring the header would break the client's condition."""
    if if_match is not None and request.method not in ("GET", "HEAD"):
        raise NotSupported("openimds takes If-Match for the update and the delete of a resource only.")


CallerDep = Annotated[Caller, Depends(network_caller)]
QueryParams = Annotated[QueryPairs, Depends(query_params)]
ExpectedRevision = Annotated[int | None, Depends(expected_revision)]
JsonBody = Annotated[Any, Body()]
