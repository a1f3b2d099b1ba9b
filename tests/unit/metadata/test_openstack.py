from __future__ import annotations

import json

import pytest

from openimds.metadata.context import DocumentSettings
from openimds.metadata.openstack import DOCUMENTS, is_password, listed_documents, openstack_document
from openimds.metadata.outcome import Document, FetchVendordata, MetadataError
from openimds.metadata.paths import OPENSTACK_VERSIONS
from openimds.resources.instance import InjectedFile

ALL = ["meta_data.json", "user_data", "password", "vendor_data.json", "network_data.json", "vendor_data2.json"]


def read(context, *parts: str) -> Document:
    decision = openstack_document(context, parts)
    assert isinstance(decision, Document)
    return decision


def test_root_lists_versions_up_to_today(make_context) -> None:
    assert read(make_context()).body.decode().split("\n") == [*OPENSTACK_VERSIONS, "latest"]


@pytest.mark.parametrize(
    ("version", "listed"),
    [
        ("2012-08-10", ALL[:2]),
        ("2013-04-04", ALL[:3]),
        ("2013-10-17", ALL[:4]),
        ("2015-10-15", ALL[:5]),
        ("2016-06-30", ALL[:5]),
        ("2016-10-06", ALL),
        ("2025-04-04", ALL),
    ],
)
def test_version_lists_its_documents(make_context, version: str, listed: list[str]) -> None:
    context = make_context(user_data=b"")
    assert listed_documents(context, version) == listed
    for parts in ((version,), (version, "version")):
        assert read(context, *parts).body.decode().split("\n") == listed
    assert "user_data" not in listed_documents(make_context(), version)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
@pytest.mark.parametrize("version", [*OPENSTACK_VERSIONS, "latest"])
def test_each_document_is_readable_from_its_version_on(make_context, document, version: str) -> None:
    context = make_context(user_data=b"\x00\xff")
    if version < document.readable_since:
        with pytest.raises(MetadataError):
            openstack_document(context, (version, document.name))
    else:
        answer = read(context, version, document.name)
        assert (answer.status, answer.content_type) == (200, document.content_type)


@pytest.mark.parametrize(
    "parts",
    [
        ("2099-01-01",),
        ("latest", "nope"),
        ("latest", "meta_data.json", "x"),
        ("latest", "content"),
        ("latest", "content", "0000"),
        ("latest", "user_data"),
        ("content",),
        ("content", "0001"),
        ("content", "0000", "x"),
    ],
)
def test_missing_paths_are_404(make_context, parts: tuple[str, ...]) -> None:
    with pytest.raises(MetadataError) as refused:
        openstack_document(make_context(files=(InjectedFile("/a", b"x"),)), parts)
    assert refused.value.status == 404


def test_content_file_is_served_unchanged(make_context) -> None:
    context = make_context(files=(InjectedFile("/a", b"\x1f\x8b\x00"),))
    assert read(context, "content", "0000").body == b"\x1f\x8b\x00"


def test_static_vendor_data_is_served(make_context) -> None:
    static = make_context(DocumentSettings(static_vendor_data={"a": 1}))
    assert json.loads(read(static, "latest", "vendor_data.json").body) == {"a": 1}
    assert json.loads(read(static, "latest", "vendor_data2.json").body) == {"static": {"a": 1}}
    with pytest.raises(MetadataError):
        openstack_document(make_context(DocumentSettings(static_vendor_data=None)), ("latest", "vendor_data.json"))


def test_dynamic_vendor_data_needs_a_query(make_context) -> None:
    context = make_context(DocumentSettings(dynamic_vendor_data=True))
    assert openstack_document(context, ("latest", "vendor_data2.json")) == FetchVendordata()


@pytest.mark.parametrize(
    ("parts", "it_is"),
    [
        (("latest", "password"), True),
        (("2013-04-04", "password"), True),
        (("2012-08-10", "password"), False),
        (("2013-04-03", "password"), False),
        (("latest", "password", "x"), False),
        (("latest",), False),
        ((), False),
    ],
)
def test_password_path_is_recognised(parts: tuple[str, ...], it_is: bool) -> None:
    assert is_password(parts) is it_is
