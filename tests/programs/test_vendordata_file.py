"""The static vendor data file while it changes."""

from __future__ import annotations

import json
from pathlib import Path

import structlog

from openimds.programs.vendordata_file import StaticVendorData


def test_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "vendor.json"
    path.write_text('{"a": 1}')
    file = StaticVendorData(path, {"a": 1})
    assert (file.read_change(), file.read_change()) == (None, None)
    path.write_text('{"a": 22}')
    assert file.read_change() == {"a": 22}
    new = tmp_path / "new"
    new.write_text('{"a": 33}')
    new.rename(path)
    assert file.read_change() == {"a": 33}


def test_change_before_the_first_check_is_found(tmp_path: Path) -> None:
    path = tmp_path / "vendor.json"
    path.write_text('{"a": 2}')
    assert StaticVendorData(path, {"a": 1}).read_change() == {"a": 2}


def test_invalid_file_is_logged_once_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "vendor.json"
    path.write_text('{"a": 1}')
    file = StaticVendorData(path, {"a": 1})
    file.read_change()
    with structlog.testing.capture_logs() as logs:
        for text in ("{", "[1, 2]"):
            path.write_text(text)
            assert [file.read_change(), file.read_change(), file.read_change()] == [None] * 3
        path.unlink()
        assert [file.read_change(), file.read_change()] == [None] * 2
    assert [str(path) in line["reason"] for line in logs] == [True] * 3
    path.write_text(json.dumps({"a": 1}))
    assert file.read_change() is None  # the content is the one in use
    path.write_text(json.dumps({"a": 4}))
    assert file.read_change() == {"a": 4}
