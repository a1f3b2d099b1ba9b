"""What this system owns on this host, written down before it is made.

A name that is noted may or may not exist (a crash between the note and the deed); a thing of ours that exists
is always noted. So `down` finds everything, also after kill -9, and never touches what is somebody else's.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

OwnedKind = Literal["netns", "link"]
"""`link`: a device in the root namespace (a bridge, or the host's end of a veth pair)."""


class OwnershipRecord:
    """One empty file a name: `owned/netns/qdhcp-…`, `owned/link/brq…`. Creating and unlinking are atomic, so
    several agents may share it.
    """

    def __init__(self, owned_dir: Path) -> None:
        self._owned_dir = owned_dir

    def note(self, kind: OwnedKind, name: str) -> None:
        """Before the thing is made. Idempotent."""
        folder = self._owned_dir / kind
        folder.mkdir(parents=True, exist_ok=True, mode=0o755)
        path = folder / name
        if path.exists():
            return
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))

    def forget(self, kind: OwnedKind, name: str) -> None:
        """After the thing is gone. Idempotent."""
        (self._owned_dir / kind / name).unlink(missing_ok=True)

    def names(self, kind: OwnedKind) -> set[str]:
        try:
            return set(os.listdir(self._owned_dir / kind))
        except FileNotFoundError:
            return set()
