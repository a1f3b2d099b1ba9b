from __future__ import annotations

import pytest

from openimds.metadata.context import DocumentSettings
from openimds.metadata.imds_options import ImdsOptions
from openimds.metadata.outcome import Document, MetadataError
from openimds.metadata.paths import parse_path
from openimds.metadata.router import DocumentRequest, route

TAGS = {"Name": "web 1", "cost.center": "42", "with space": "", "imds:InstanceMetadataTags": "enabled"}
ROOT = b"/latest/meta-data/"


def read(context, target: bytes) -> bytes | int:
    try:
        answer = route(DocumentRequest(method="GET", path=parse_path(target)), context)
    except MetadataError as refusal:
        return refusal.status
    assert isinstance(answer, Document)
    return answer.body


def listing(context) -> bytes:
    names = read(context, ROOT)
    assert isinstance(names, bytes)
    return names


def test_enabled_tags_are_listed_and_readable(make_context) -> None:
    context = make_context(metadata=TAGS)
    assert b"\ntags/" in listing(context)
    assert read(context, ROOT + b"tags/") == b"instance/"
    assert read(context, ROOT + b"tags/instance") == b"Name\ncost.center\nwith space"
    assert read(context, ROOT + b"tags/instance/Name") == b"web 1"
    assert read(context, ROOT + b"tags/instance/with%20space") == b""
    assert read(context, ROOT + b"tags/instance/other") == 404
    assert read(context, ROOT + b"tags/instance/Name/x") == 404
    assert read(context, ROOT + b"tags/instance/imds:InstanceMetadataTags") == 404


def test_tags_can_be_enabled_by_the_deployments_default(make_context) -> None:
    settings = DocumentSettings(policy=ImdsOptions(instance_metadata_tags=True))
    assert read(make_context(settings, metadata={"a": "b"}), ROOT + b"tags/instance/a") == b"b"
    refused = {"a": "b", "imds:InstanceMetadataTags": "disabled"}
    assert read(make_context(settings, metadata=refused), ROOT + b"tags/instance/a") == 404


@pytest.mark.parametrize("target", [b"tags", b"tags/instance", b"tags/instance/a"])
def test_tags_are_404_if_not_enabled(make_context, target: bytes) -> None:
    context = make_context(metadata={"a": "b"})
    assert read(context, ROOT + target) == 404
    assert b"tags" not in listing(context)


@pytest.mark.parametrize("key", ["a/b", ".", "..", "_index", "_name", "", "é", "a\nb"])
def test_keys_that_cannot_be_a_path_segment_are_left_out(make_context, key: str) -> None:
    context = make_context(metadata={key: "x", "imds:InstanceMetadataTags": "enabled"})
    assert read(context, ROOT + b"tags/instance") == 404
