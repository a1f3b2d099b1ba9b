from __future__ import annotations

import pytest

from openimds.control_api.pagination import MAX_LIMIT, PageParams, next_link, page_params, paginate
from openimds.resources.errors import BadRequest

ITEMS = ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("asked", "items", "more"),
    [
        (PageParams(10), ITEMS, False),
        (PageParams(2), ["a", "b"], True),
        (PageParams(2, "b"), ["c", "d"], False),
        (PageParams(1, "b"), ["c"], True),
        (PageParams(2, "d"), [], False),
    ],
)
def test_page_starts_after_the_marker(asked: PageParams, items: list[str], more: bool) -> None:
    found = paginate(ITEMS, asked, key=lambda item: item)
    assert (list(found.items), found.more) == (items, more)


def test_unknown_marker_is_rejected() -> None:
    with pytest.raises(BadRequest, match="marker"):
        paginate(ITEMS, PageParams(1, "z"), key=lambda item: item)


def test_limit_is_capped() -> None:
    assert page_params(None).limit == MAX_LIMIT
    assert page_params(0).limit == MAX_LIMIT
    assert page_params(10**9).limit == MAX_LIMIT


def test_next_link_repeats_the_query() -> None:
    link = next_link("http://c/servers", [("name", "a b"), ("marker", "old"), ("limit", "2")], "new")
    assert link == {"rel": "next", "href": "http://c/servers?name=a+b&limit=2&marker=new"}
