from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from openimds.control_api.image.schema import columns_of, image_document, patched
from openimds.resources.errors import BadRequest, Forbidden
from openimds.resources.image import Image

NOW = datetime.fromisoformat("2026-11-21T10:00:00")
IMAGE = Image(
    id="i", owner="p", name="n", status="active", visibility="shared", container_format="bare", disk_format="raw",
    min_disk_gib=0, min_ram_mib=0, size_bytes=1, checksum=None, hash_algo=None, hash_value=None, protected=False,
    hidden=False, properties={"a": "1"}, tags=("t",), created_at=NOW, updated_at=NOW,
)  # fmt: skip


def test_properties_do_not_hide_attributes() -> None:
    shown = image_document(IMAGE)
    assert (shown["a"], shown["id"], shown["created_at"]) == ("1", "i", "2026-11-21T10:00:00Z")


def test_unknown_attributes_become_properties() -> None:
    columns = columns_of({"name": "x", "min_disk": 3, "os_type": "linux"})
    assert columns == {"name": "x", "min_disk_gib": 3, "properties": {"os_type": "linux"}}


@pytest.mark.parametrize("name", ["status", "size", "checksum", "self", "owner"])
def test_read_only_attribute_is_rejected(name: str) -> None:
    with pytest.raises(Forbidden, match=name):
        columns_of({name: "x"})
    with pytest.raises(Forbidden, match=name):
        patched(IMAGE, [{"op": "replace", "path": f"/{name}", "value": "x"}])


@pytest.mark.parametrize(
    ("operation", "columns"),
    [
        ({"op": "replace", "path": "/name", "value": "m"}, {"name": "m", "properties": {"a": "1"}}),
        ({"op": "add", "path": "/b~1c~0", "value": "2"}, {"properties": {"a": "1", "b/c~": "2"}}),
        ({"op": "remove", "path": "/a"}, {"properties": {}}),
        ({"op": "add", "path": "/tags/-", "value": "u"}, {"tags": ["t", "u"], "properties": {"a": "1"}}),
        ({"op": "remove", "path": "/tags/t"}, {"tags": [], "properties": {"a": "1"}}),
    ],
)
def test_patch_changes_columns_and_properties(operation: dict[str, Any], columns: dict[str, Any]) -> None:
    assert patched(IMAGE, [operation]) == columns


@pytest.mark.parametrize(
    "operations",
    [{}, [1], [{"op": "copy", "path": "/a"}], [{"op": "add", "path": "a", "value": "1"}], [{"op": "add", "path": "/a"}],
     [{"op": "remove", "path": "/zzz"}], [{"op": "add", "path": "/a", "value": 1}]],
)  # fmt: skip
def test_malformed_patch_is_rejected(operations: Any) -> None:
    with pytest.raises(BadRequest):
        patched(IMAGE, operations)
