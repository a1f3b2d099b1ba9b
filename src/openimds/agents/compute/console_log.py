"""Uploads the tail of each instance's console output to the control API, at most every 0.3 s while it grows."""

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
"""An unchanged tail is sent again after this time, because a restored database does not contain it."""
TRUNCATE_BYTES = 1024 * 1024
"""A larger console file is truncated, so that an instance that prints without end does not fill the disk."""

logger = structlog.get_logger(__name__)


@dataclass(slots=True)
class ConsoleTail:
    """The tail of one console file, and the offset up to which it was read."""

    inode: int = 0
    """The file's inode. Each boot creates a new file."""
    offset: int = 0
    tail: bytes = b""
    is_sent: bool = False
    sent_at: float = 0.0

    def read(self, path: Path) -> None:
        """Reads the appended bytes. Raises FileNotFoundError."""
        with path.open("rb") as console:
            status = os.fstat(console.fileno())
            if status.st_ino != self.inode:
                self.inode, self.offset, self.tail, self.is_sent = status.st_ino, 0, b"", False
            if status.st_size < self.offset:
                self.offset = 0  # the driver has truncated the file
            if status.st_size > self.offset:
                console.seek(max(self.offset, status.st_size - TAIL_BYTES))
                self.tail = (self.tail + console.read(TAIL_BYTES))[-TAIL_BYTES:]
                self.offset = status.st_size
                self.is_sent = False
        if self.offset > TRUNCATE_BYTES:
            os.truncate(path, 0)
            self.offset = 0


class ConsoleUploader:
    """Uploads console tails. Not thread-safe."""

    def __init__(self, api: ServersApi, driver: ComputeDriver, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._clock = clock
        self._driver = driver
        self._tails: dict[str, ConsoleTail] = {}
        self._failing = False

    def upload_changed(self) -> None:
        """Uploads the tails that changed. A failed upload is repeated by the next call."""
        present = self._driver.servers()
        self._tails = {server_id: self._tails.get(server_id, ConsoleTail()) for server_id in present}
        # All files are read first, because reading also truncates them, and an upload may fail.
        found = [server_id for server_id, tail in self._tails.items() if self._read(server_id, tail)]
        for server_id in found:
            tail = self._tails[server_id]
            is_due = not tail.is_sent or self._clock() - tail.sent_at >= REPEAT_SECONDS
            if is_due and not self._send(server_id, tail):
                return

    def _read(self, server_id: str, tail: ConsoleTail) -> bool:
        """Returns False if the instance has no console file."""
        try:
            tail.read(self._driver.console_file(server_id))
        except FileNotFoundError:
            return False
        return True

    def _send(self, server_id: str, tail: ConsoleTail) -> bool:
        """Returns False if the control API cannot be reached, so that the caller does not try the other servers."""
        try:
            self._api.put_console(server_id, tail.tail.decode("utf-8", "replace"))
        except Exception as error:  # noqa: BLE001 - the client decides which errors exist
            if getattr(error, "status", None) != 404:  # the server was deleted
                self._log_failure(error)
                return False
        tail.is_sent, tail.sent_at = True, self._clock()
        self._failing = False
        return True

    def _log_failure(self, error: Exception) -> None:
        if not self._failing:
            logger.warning("console upload failed", error=str(error))
        self._failing = True
