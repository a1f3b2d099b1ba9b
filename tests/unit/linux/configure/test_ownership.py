"""What is noted is found, also by another program, and forgetting twice is no error."""

from __future__ import annotations

from pathlib import Path

from openimds.linux.configure.ownership import OwnershipRecord


def test_notes_are_files_that_others_find(tmp_path: Path) -> None:
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
