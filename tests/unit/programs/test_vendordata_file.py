"""The static vendor data file while it is edited."""

from __future__ import annotations

import json
from pathlib import Path

import structlog

from openimds.programs.vendordata_file import StaticVendorData


def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "vendor.json"
    path.write_text('{"a": 1}')
    file = StaticVendorData(path, {"a": 1})
    assert (file.look(), file.look()) == (None, None)
    path.write_text('{"a": 22}')
    assert file.look() == {"a": 22}
    new = tmp_path / "new"
    new.write_text('{"a": 33}')
    new.rename(path)
    assert file.look() == {"a": 33}


def test_it_changed_between_the_start_and_the_first_look(tmp_path: Path) -> None:
    path = tmp_path / "vendor.json"
    path.write_text('{"a": 2}')
    assert StaticVendorData(path, {"a": 1}).look() == {"a": 2}


def test_a_broken_file_is_told_once_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "vendor.json"
    path.write_text('{"a": 1}')
    file = StaticVendorData(path, {"a": 1})
    file.look()
    with structlog.testing.capture_logs() as logs:
        for text in ("{", "[1, 2]"):
            path.write_text(text)
            assert [file.look(), file.look(), file.look()] == [None] * 3
        path.unlink()
        assert [file.look(), file.look()] == [None] * 2
    assert [str(path) in line["reason"] for line in logs] == [True] * 3
    path.write_text(json.dumps({"a": 1}))
    assert file.look() is None  # as it was served all the time
    path.write_text(json.dumps({"a": 4}))
    assert file.look() == {"a": 4}
