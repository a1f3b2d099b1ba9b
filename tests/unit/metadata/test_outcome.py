from __future__ import annotations

import json

import pytest

from openimds.metadata.outcome import JSON, TEXT, error_document, method_not_allowed, not_found, wants_json


@pytest.mark.parametrize(
    ("accept", "json_wanted"),
    [
        (None, False),
        ("", False),
        ("*/*", False),
        ("text/html", False),
        ("application/json", True),
        ("text/html, Application/JSON;q=0.5", True),
        ("application/json;q=0", False),
        ("application/json; q=0.0", False),
        ("application/jsonp", False),
    ],
)
def test_json_is_chosen_by_the_accept_header(accept: str | None, json_wanted: bool) -> None:
    assert wants_json(accept) is json_wanted


def test_error_is_rendered_as_text() -> None:
    answer = error_document(not_found(), None)
    assert (answer.status, answer.content_type) == (404, TEXT)
    assert answer.body == b"404 Not Found\n\nThe resource could not be found.\n"


def test_error_is_rendered_as_json() -> None:
    answer = error_document(method_not_allowed("GET", "HEAD"), "application/json")
    assert (answer.status, answer.content_type, answer.headers) == (405, JSON, (("Allow", "GET, HEAD"),))
    assert json.loads(answer.body) == {
        "message": "Only GET, HEAD can be used here.",
        "code": "405 Method Not Allowed",
        "title": "Method Not Allowed",
    }
