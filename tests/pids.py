"""PID files of the programs under test."""

from __future__ import annotations

from pathlib import Path


def pid_in(path: Path) -> int:
    """The PID in the file. 0 while the file does not exist, or is empty because the program is writing it."""
    try:
        return int(path.read_text())
    except (FileNotFoundError, ValueError):
        return 0
