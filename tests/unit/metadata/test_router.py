from __future__ import annotations

import pytest

from openimds.metadata.outcome import Document, MetadataError, Outcome, StorePassword
from openimds.metadata.paths import parse_path
from openimds.metadata.router import DocumentRequest, forbid_options, root_document, route


def ask(context, method: str, target: bytes, body: bytes | None = b"") -> Outcome:
    return route(DocumentRequest(method=method, path=parse_path(target), body=body), context)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "target", [b"/", b"/openstack", b"/latest/meta-data/hostname", b"/openstack/latest/meta_data.json"]
)
def test_reads_return_documents(make_context, method: str, target: bytes) -> None:
    assert isinstance(ask(make_context(), method, target), Document)


def test_password_can_be_posted_and_read(make_context) -> None:
    assert ask(make_context(), "POST", b"/openstack/latest/password", b"pw") == StorePassword("pw")
    answer = ask(make_context(password="x"), "GET", b"/openstack/latest/password")
    assert isinstance(answer, Document)
    assert answer.body == b"x"


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("POST", b"/openstack/latest/meta_data.json", 405),
        ("PUT", b"/", 405),
        ("get", b"/latest/meta-data/hostname", 405),
        ("FOO", b"/latest/meta-data/nope", 404),
        ("PUT", b"/latest/api/token", 404),
        ("PUT", b"/openstack/latest/password", 400),
        ("HEAD", b"/openstack/latest/password", 400),
        ("POST", b"/openstack/2012-08-10/password", 404),
        ("OPTIONS", b"/openstack/latest/password", 405),
        ("OPTIONS", b"/nope", 405),
    ],
)
def test_unknown_paths_and_methods_are_rejected(make_context, method: str, target: bytes, status: int) -> None:
    with pytest.raises(MetadataError) as refused:
        ask(make_context(), method, target)
    assert refused.value.status == status
    assert bool(refused.value.headers) == (status == 405)


def test_root_is_readable_and_not_writable() -> None:
    assert root_document("HEAD").body.startswith(b"1.0\n")
    with pytest.raises(MetadataError):
        root_document("DELETE")


def test_options_is_rejected() -> None:
    forbid_options("GET")
    with pytest.raises(MetadataError):
        forbid_options("OPTIONS")
