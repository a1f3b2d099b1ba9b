"""The record of the objects that this system owns on the host. An object is recorded before it is created.

A recorded object may not exist, because of a crash before its creation. An existing object of this system is always
recorded. `openimds down` therefore finds everything, also after kill -9, and never removes objects of other programs.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

OwnedKind = Literal["netns", "link"]
"""`link`: a device in the root namespace (a bridge, or the host's end of a veth pair)."""


class OwnershipRecord:
    """One empty file per object: `owned/netns/qdhcp-…`, `owned/link/brq…`.

    Creating and unlinking a file is atomic, so several agents can share the record.
    """

    def __init__(self, owned_dir: Path) -> None:
        self._owned_dir = owned_dir

    def add(self, kind: OwnedKind, name: str) -> None:
        """Records an object before its creation. Idempotent."""
        folder = self._owned_dir / kind
        folder.mkdir(parents=True, exist_ok=True, mode=0o755)
        path = folder / name
        if path.exists():
            return
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))

    def remove(self, kind: OwnedKind, name: str) -> None:
        """Removes the record of an object after its deletion. Idempotent."""
        (self._owned_dir / kind / name).unlink(missing_ok=True)

    def names(self, kind: OwnedKind) -> set[str]:
        try:
            return set(os.listdir(self._owned_dir / kind))
        except FileNotFoundError:
            return set()
