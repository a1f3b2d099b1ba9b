from __future__ import annotations

import json

from openimds.metadata.context import DocumentSettings
from openimds.metadata.vendordata import vendor_data2, vendordata_request


def test_response_of_a_target_is_under_its_name() -> None:
    settings = DocumentSettings(static_vendor_data={"a": 1})
    answer = vendor_data2(settings, {"cmdb": {"b": 2}, "static": "no"})
    assert json.loads(answer.body) == {"static": {"a": 1}, "cmdb": {"b": 2}}
    assert answer.content_type == "application/json"


def test_document_without_the_static_provider() -> None:
    assert vendor_data2(DocumentSettings(static_vendor_data=None), {"cmdb": {}}).body == b'{"cmdb": {}}'


def test_request_has_novas_keys(make_context) -> None:
    question = vendordata_request(
        make_context(user_data=b"\xff", metadata={"a": "b"}, image_id="img", boot_roles="r").instance
    )
    assert list(question.items()) == [
        ("project-id", "p1"),
        ("instance-id", "11111111-2222-4333-8444-555555555501"),
        ("image-id", "img"),
        ("user-data", "/w=="),
        ("hostname", "bare"),
        ("metadata", {"a": "b"}),
        ("boot-roles", "r"),
    ]
    nothing = vendordata_request(make_context().instance)
    assert (nothing["image-id"], nothing["user-data"]) == ("", None)
