"""The folders that workers count in: one for each program that runs, none of one that does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from openimds.runtime.lifecycle import StartupError
from openimds.runtime.metrics import metrics_folder


def test_it_is_there_while_the_program_runs_and_only_its_owners(tmp_path: Path) -> None:
    with metrics_folder(tmp_path / "state", "metadata-api") as folder:
        assert folder.parent == tmp_path / "state" / "metrics"
        assert not list(folder.iterdir())
        assert [path.stat().st_mode & 0o777 for path in (folder.parent, folder)] == [0o700, 0o700]
    assert not folder.exists()


def test_what_a_killed_one_left_is_removed_and_others_are_not(tmp_path: Path) -> None:
    with metrics_folder(tmp_path, "metadata-agent") as others, metrics_folder(tmp_path, "metadata-api") as first:
        killed = tmp_path / "metrics" / "metadata-api.killed"
        killed.mkdir()
        (killed / "counter_17.db").write_bytes(b"17")
        with metrics_folder(tmp_path, "metadata-api") as second:
            assert set((tmp_path / "metrics").iterdir()) == {others, first, second}


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "metrics").write_text("a file")
    before = len(list(Path("/proc/self/fd").iterdir()))
    sentence = r"cannot keep their figures in .*/metrics: file exists; .* state_path"
    with pytest.raises(StartupError, match=sentence), metrics_folder(tmp_path, "metadata-api"):
        pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before
