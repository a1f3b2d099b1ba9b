"""Writes the configuration files of other programs: atomically, and only when the content differs."""

from __future__ import annotations

import os
import stat
from pathlib import Path

OWNER_ONLY = 0o700


def write_if_changed(path: Path, text: str, mode: int = 0o644, owner: int | None = None) -> bool:
    """Returns True if the file was written because it was absent or had another content. Raises OSError.

    The file gets the mode in any case. `owner` is the user that a program reads the file as. If it is given, the file
    and its folder belong to that user, and the folder is closed to all others.
    """
    try:
        # Compared as bytes, because the present content may not be valid UTF-8.
        if path.read_bytes() == text.encode():
            _give_with_folder(path, mode, owner)
            return False
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text)
    temporary.chmod(mode)
    _give_with_folder(temporary, mode, owner)
    temporary.replace(path)
    return True


def _give_with_folder(path: Path, mode: int, owner: int | None) -> None:
    if owner is not None:
        _give(path.parent, OWNER_ONLY, owner)
    _give(path, mode, owner)


def _give(path: Path, mode: int, owner: int | None) -> None:
    status = path.stat()
    if owner is not None and status.st_uid != owner:
        os.chown(path, owner, -1)
    if stat.S_IMODE(status.st_mode) != mode:
        path.chmod(mode)
