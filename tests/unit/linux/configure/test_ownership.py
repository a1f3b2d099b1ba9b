"""What is noted is found, also by another program, and forgetting twice is no error."""

from __future__ import annotations

from pathlib import Path

from openimds.linux.configure.ownership import OwnershipRecord


def test_notes_are_files_that_others_find(tmp_path: Path) -> None:
    ledger = OwnershipRecord(tmp_path / "owned")
    assert ledger.names("netns") == set()
    ledger.note("netns", "qdhcp-1")
    ledger.note("netns", "qdhcp-1")
    ledger.note("link", "brq1")
    assert OwnershipRecord(tmp_path / "owned").names("netns") == {"qdhcp-1"}
    assert (tmp_path / "owned" / "link" / "brq1").exists()
    ledger.forget("netns", "qdhcp-1")
    ledger.forget("netns", "qdhcp-1")
    assert ledger.names("netns") == set()
    assert ledger.names("link") == {"brq1"}
