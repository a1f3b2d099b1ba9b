"""Lone surrogates and NUL are refused in every request, before anything is stored."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.contract.control.stage import Cloud, Session, sentence
from tests.waiting import HANG_SECONDS

MALFORMED = st.sampled_from(["\ud800", "a\udfffb", "\x00", "user\x00", "\udc00\ud800"])
KEYS = st.text("abc:_", min_size=1, max_size=6)
RAW_BODIES = ("/image/v2/images/{image_id}/file", "/openimds/v1/servers/{server_id}/console")
WRITES = ("post", "put", "patch")


@st.composite
def documents(draw: st.DrawFn) -> tuple[Any, str]:
    """A JSON document with one malformed text in it, and the text's place."""
    document: Any = draw(MALFORMED)
    place = ""
    for _ in range(draw(st.integers(1, 4))):
        sibling = draw(st.none() | st.booleans() | st.text("xyz", max_size=3))
        if draw(st.booleans()):
            document, place = [sibling, document], f"[1]{place}"
        else:
            key = draw(KEYS)
            document, place = {f"{key}!": sibling, key: document}, f".{key}{place}"
    return document, place.removeprefix(".")


@pytest.fixture(scope="module")
def routes(cloud: Cloud) -> list[tuple[str, str, bool]]:
    """(method, path, True for a JSON body) of each route that can write."""
    paths = requests.get(f"{cloud.url}/openapi.json", timeout=HANG_SECONDS).json()["paths"]
    found = [
        (method.upper(), path, "requestBody" in operation)
        for path, operations in paths.items()
        for method, operation in operations.items()
        if method in WRITES and path not in RAW_BODIES
    ]
    assert len(found) > 70
    return found


def _send(admin: Session, method: str, path: str, body: bytes) -> requests.Response:
    kind = "application/openstack-images-v2.1-json-patch" if method == "PATCH" and "/image/" in path else None
    headers = {"Content-Type": kind or "application/json"}
    return admin.call(method, path, data=body, headers=headers)


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_malformed_text_in_a_body_is_refused_with_its_place(
    cloud: Cloud, admin: Session, routes: list[tuple[str, str, bool]], data: st.DataObject
) -> None:
    """A tag with a lone surrogate was stored, answered with 500, and made the snapshot of all agents fail."""
    method, path, takes_body = data.draw(st.sampled_from(routes))
    document, place = data.draw(documents())
    before = cloud.store.revision()
    answer = _send(admin, method, path.replace("{", "").replace("}", ""), json.dumps(document).encode())
    assert cloud.store.revision() == before
    assert answer.status_code < 500 or answer.status_code == 501, answer.text
    if takes_body:
        assert answer.status_code == 400, answer.text
        assert f"Invalid input for field {place}:" in sentence(answer.json())


@pytest.fixture
def network_id(admin: Session) -> Iterator[str]:
    network = admin.post("/network/v2.0/networks", {"network": {"name": "n"}})["network"]
    yield network["id"]
    admin.call("DELETE", f"/network/v2.0/networks/{network['id']}")


@pytest.mark.parametrize(
    "body",
    [
        b'{"tags": ["\\ud800"]}',
        b'{"tags": ["\\uDFFF"]}',
        b'{"tags": ["\xed\xa0\x80"]}',
        b'{"tags": ["\\u0000"]}',
        '{"tags": ["\x00"]}'.encode("utf-16"),
        '{"tags": ["\ud800"]}'.encode("utf-16-le", "surrogatepass"),
        '{"tags": ["\ud800"]}'.encode("utf-32", "surrogatepass"),
    ],
)
def test_every_encoding_of_malformed_text_is_refused(admin: Session, network_id: str, body: bytes) -> None:
    path = f"/network/v2.0/networks/{network_id}/tags"
    answer = _send(admin, "PUT", path, body)
    assert answer.status_code == 400, answer.text
    if b"u0000" in body or not body.startswith(b'{"tags": ["\xed'):
        assert admin.get(path)["tags"] == []


def test_well_formed_pair_of_surrogates_is_taken(admin: Session, network_id: str) -> None:
    path = f"/network/v2.0/networks/{network_id}/tags"
    assert _send(admin, "PUT", path, b'{"tags": ["\\ud83e\\udd8a"]}').status_code == 200
    assert admin.get(path)["tags"] == ["\U0001f98a"]


@pytest.mark.parametrize(
    "path", ["/network/v2.0/networks?name=%00", "/v3/users?name=a%00b", "/image/v2/images?tag=%00"]
)
def test_nul_in_a_query_is_refused_with_the_parameter(admin: Session, path: str) -> None:
    name = path.partition("?")[2].partition("=")[0]
    assert f"field {name}:" in admin.refused(400, "GET", path)


def test_nul_in_a_path_is_refused(admin: Session, network_id: str) -> None:
    assert "field path:" in admin.refused(400, "PUT", f"/network/v2.0/networks/{network_id}/tags/a%00b")


def test_malformed_key_is_refused_with_its_object(admin: Session) -> None:
    body = {"port": {"binding:profile": {"\ud800": 1}}}
    assert "field port.binding:profile:" in admin.refused(400, "POST", "/network/v2.0/ports", body)


def test_body_of_a_metadata_item_named_file_is_limited(admin: Session) -> None:
    """Each path that ended with /file was treated as an image's data, without a limit."""
    body = {"meta": {"file": "x" * (3 * 1024 * 1024)}}
    assert "bytes" in admin.refused(413, "PUT", "/compute/v2.1/servers/vm/metadata/file", body)
