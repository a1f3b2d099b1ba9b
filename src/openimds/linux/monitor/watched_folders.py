"""Folders of files that an agent keeps, and others may change; also when somebody puts another in a folder's place."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from openimds.linux.monitor.inotify import Folders


class WatchedFolders:
    """Each with the folders in it. Not for two threads at once."""

    def __init__(self) -> None:
        self._folders = Folders()
        self._own: tuple[Path, ...] = ()
        self._others: tuple[Path, ...] = ()

    @property
    def descriptor(self) -> int:
        """There is something to read when this can be read."""
        return self._folders.descriptor

    def watch(self, own: Iterable[Path], others: Iterable[Path]) -> None:
        """`own`: made where they are not there. Raises OSError."""
        self._own, self._others = tuple(own), tuple(others)
        for root in self._own:
            self._watch_own(root)
        for root in self._others:
            self._folders.watch(root)

    def watch_new_ones(self) -> bool:
        """Whether a folder stands where another one, or none, was watched: all that is in it may be another. Nobody tells of
        that; to be asked from time to time.
        """
        is_new = [self._folders.watch(root) for root in self._others]
        for root in self._own:
            with contextlib.suppress(OSError):  # somebody is faster, or made a file of that name: again the next time
                is_new.append(self._watch_own(root))
        return any(is_new)

    def changed(self) -> Iterator[tuple[Path, str]]:
        """The folder, and the name in it of what was changed, or of the folder that something in it was changed in."""
        for path, is_new_folder in self._folders.changed():
            if path.parent in self._others:
                yield path.parent, path.name
                continue
            root = next((root for root in self._own if root in path.parents), None)
            if root is None:
                continue
            if is_new_folder and path.parent == root:
                self._folders.watch(path)
            yield root, path.relative_to(root).parts[0]

    def take_overflow(self) -> bool:
        """Whether something was missed since this was asked last."""
        overflowed, self._folders.overflowed = self._folders.overflowed, False
        return overflowed

    def close(self) -> None:
        self._folders.close()

    def _watch_own(self, root: Path) -> bool:
        root.mkdir(parents=True, exist_ok=True, mode=0o755)
        is_new = self._folders.watch(root)
        if is_new:
            for folder in root.iterdir():
                if folder.is_dir():
                    self._folders.watch(folder)
        return is_new
