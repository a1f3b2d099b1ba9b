"""Recorded objects are visible to other processes, and removing a record twice is not an error."""

from __future__ import annotations

from pathlib import Path

from openimds.linux.configure.ownership import OwnershipRecord


def test_records_are_files_shared_between_processes(tmp_path: Path) -> None:
    ownership = OwnershipRecord(tmp_path / "owned")
    assert ownership.names("netns") == set()
    ownership.add("netns", "qdhcp-1")
    ownership.add("netns", "qdhcp-1")
    ownership.add("link", "brq1")
    assert OwnershipRecord(tmp_path / "owned").names("netns") == {"qdhcp-1"}
    assert (tmp_path / "owned" / "link" / "brq1").exists()
    ownership.remove("netns", "qdhcp-1")
    ownership.remove("netns", "qdhcp-1")
    assert ownership.names("netns") == set()
    assert ownership.names("link") == {"brq1"}
