"""Where several workers of one program keep their numbers for each other: `<state_path>/metrics/<program>.<anything>/`.

Each is held by an flock of its program for as long as that lives, however it ends: what nobody holds is a dead one's, and
the next start removes it. Two programs of one name may so keep theirs beside each other.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from openimds.runtime.lifecycle import CannotStartError

FOLDER = "metrics"
"""In the state folder."""


@contextmanager
def metrics_folder(state_path: Path, program: str) -> Iterator[Path]:
    """A new folder that only its owner may read, gone after the block. Raises CannotStartError with a sentence."""
    folder, held = _made(state_path / FOLDER, program)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def _made(parent: Path, program: str) -> tuple[Path, int]:
    """The folder and the descriptor that holds it."""
    try:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        looking = _open(parent)
        try:
            fcntl.flock(looking, fcntl.LOCK_EX)  # a folder that another one has just made is not held yet
            for left in parent.glob(f"{program}.*"):
                _remove_unless_held(left)
            folder = Path(tempfile.mkdtemp(prefix=f"{program}.", dir=parent))
            held = _open(folder)
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(looking)
    except OSError as error:
        raise CannotStartError(
            f"workers cannot keep their figures in {parent}: {(error.strerror or str(error)).lower()}; make it writable "
            f"for the user of {program}, set another state_path, or metadata_workers = 1"
        ) from error
    return folder, held


def _remove_unless_held(folder: Path) -> None:
    descriptor = _open(folder)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
    except BlockingIOError:
        return
    finally:
        os.close(descriptor)


def _open(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
