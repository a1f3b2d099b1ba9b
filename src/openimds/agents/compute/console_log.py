"""What guests print, sent to the control API while it grows: the tail, at most every 0.3 s."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from openimds.agents.compute.protocols import ComputeDriver, ServersApi

INTERVAL_SECONDS = 0.3
TAIL_BYTES = 256 * 1024
REPEAT_SECONDS = 300.0
"""An unchanged tail is sent again after this time: the control API may have lost it with a restored database."""
CUT_BYTES = 1024 * 1024
"""A console file that has grown beyond this is emptied: a guest that prints without end must not fill the disk."""

logger = structlog.get_logger(__name__)


@dataclass(slots=True)
class ConsoleTail:
    """The end of one console file, and how far it has been read."""

    inode: int = 0
    """A new boot begins a new file."""
    offset: int = 0
    tail: bytes = b""
    is_sent: bool = False
    sent_at: float = 0.0

    def read(self, path: Path) -> None:
        """Raises FileNotFoundError."""
        with path.open("rb") as console:
            status = os.fstat(console.fileno())
            if status.st_ino != self.inode or status.st_size < self.offset:
                self.inode, self.offset, self.tail, self.is_sent = status.st_ino, 0, b"", False
            if status.st_size > self.offset:
                console.seek(max(self.offset, status.st_size - TAIL_BYTES))
                self.tail = (self.tail + console.read(TAIL_BYTES))[-TAIL_BYTES:]
                self.offset = status.st_size
                self.is_sent = False
        if self.offset > CUT_BYTES:
            os.truncate(path, 0)
            self.offset = 0


class ConsoleUploader:
    """Not for several threads at once."""

    def __init__(self, api: ServersApi, guests: ComputeDriver, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._clock = clock
        self._guests = guests
        self._tails: dict[str, ConsoleTail] = {}
        self._failing = False

    def upload_changed(self) -> None:
        """Of every guest that printed something. What could not be sent is sent the next time."""
        present = self._guests.servers()
        self._tails = {server_id: self._tails.get(server_id, ConsoleTail()) for server_id in present}
        for server_id, tail in self._tails.items():
            try:
                tail.read(self._guests.console_file(server_id))
            except FileNotFoundError:
                continue
            is_due = not tail.is_sent or self._clock() - tail.sent_at >= REPEAT_SECONDS
            if is_due and not self._send(server_id, tail):
                return

    def _send(self, server_id: str, tail: ConsoleTail) -> bool:
        """False: the control API is away, and there is no sense in trying with the next one."""
        try:
            self._api.put_console(server_id, tail.tail.decode("utf-8", "replace"))
        except Exception as error:  # noqa: BLE001 - which errors there are is the client's business
            if getattr(error, "status", None) != 404:  # deleted meanwhile
                self._note_failing(error)
                return False
        tail.is_sent, tail.sent_at = True, self._clock()
        self._failing = False
        return True

    def _note_failing(self, error: Exception) -> None:
        if not self._failing:
            logger.warning("consoles cannot be sent; will be tried again", error=str(error))
        self._failing = True
