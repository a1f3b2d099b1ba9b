"""The parts of one machine under one supervisor, and the notes of them that `openimds status` reads."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

from openimds.supervisor.service import Supervised, now
from openimds.supervisor.service_spec import Part
from openimds.supervisor.state_dir import StateFolder


class Roster:
    """In the order in which they were planned."""

    def __init__(self, planned: Sequence[Part], folder: StateFolder) -> None:
        self.folder = folder
        self.is_starting = False
        """Whoever asked for the parts still waits until all are ready."""
        self._supervised = {part.name: Supervised(part) for part in planned}
        self._since = now()

    def __iter__(self) -> Iterator[Supervised]:
        return iter(self._supervised.values())

    def __getitem__(self, name: str) -> Supervised:
        return self._supervised[name]

    def with_pid(self, pid: int) -> Supervised | None:
        return next((each for each in self if each.process is not None and each.process.pid == pid), None)

    def report(self) -> list[dict[str, Any]]:
        return [each.report() for each in self]

    def note(self) -> None:
        """Write down how things are."""
        status = {"supervisor": os.getpid(), "since": self._since, "parts": self.report()}
        # A full disk must not end the supervision; `status` then shows what was known before.
        with contextlib.suppress(OSError):
            self.folder.write_status(status)
