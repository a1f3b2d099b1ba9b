"""Process ids that programs write into files."""

from __future__ import annotations

from pathlib import Path


def pid_in(path: Path) -> int:
    """0 while there is no such file, and while the program is about to write it: for a moment it is empty."""
    try:
        return int(path.read_text())
    except (FileNotFoundError, ValueError):
        return 0
