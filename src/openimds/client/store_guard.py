"""Detects that the control API's database was replaced, or restored from an older copy.

An agent records the identity of the database and the newest revision that it received, in one file per program. When a
snapshot has another identity or an older revision, or the recorded revision belongs to another epoch in it, the agent removes nothing until the operator accepts the snapshot with
`openimds host adopt`, which deletes the files.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import structlog

FOLDER = "store"
"""The folder of the files, below state_path."""
SUSPENDED = (
    "the control API's database was replaced or restored from an older copy, so nothing is removed on this host: restore "
    "the newest copy if there is one, and accept the database with `openimds host adopt`"
)
UNREADABLE = "unreadable"
"""In place of an identity, if the record cannot be read."""
WRITE_INTERVAL_SECONDS = 1.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class StoreRevision:
    store_id: str
    """Empty if the control API is of a release that sends no identity. Such a snapshot is always accepted."""
    revision: int
    is_rolled_back: bool = False
    """Whether a later snapshot does not continue this one. No further snapshot of the database is accepted then."""
    epoch: str = ""
    """The epoch of the revision. Empty if the control API sends none."""

    def continues(self, earlier: StoreRevision, epoch_of_earlier: str | None = None) -> bool:
        """Whether `earlier` is part of the history of this state.

        `epoch_of_earlier` is the epoch that the database has for the revision of `earlier`. A restored copy can have a
        revision with this number, too, in another epoch. None if it is not known.
        """
        is_newer = self.store_id == earlier.store_id and self.revision >= earlier.revision
        is_compared = epoch_of_earlier is not None and earlier.epoch and self.epoch
        is_same_epoch = not is_compared or epoch_of_earlier == earlier.epoch
        return is_newer and is_same_epoch and not earlier.is_rolled_back


class StoreGuard:
    """The record of one program, in one file. Thread-safe. All processes of the program may use the same file."""

    def __init__(self, state_path: Path, binary: str) -> None:
        self._file = state_path / FOLDER / f"{binary}.json"
        self._lock = threading.Lock()
        self._newest: StoreRevision | None = None
        """The newest accepted revision. The file may be older by WRITE_INTERVAL_SECONDS."""
        self._written_at = -WRITE_INTERVAL_SECONDS
        self._write_failed = False

    @property
    def is_forgotten(self) -> bool:
        """Whether there is no record of this program. `openimds host adopt` deletes it."""
        return not self._file.exists()

    def recorded(self) -> StoreRevision | None:
        """The newest recorded revision. None if this host has no record.

        A program without a readable record, for example after a power loss, uses the one of another program of the host.
        """
        with self._lock:
            recorded = read_record(self._file) or _record_of_others(self._file)
            if recorded is not None and self._newest is not None and self._newest.continues(recorded):
                return self._newest
            return recorded

    def accepts(self, snapshot: StoreRevision, known: StoreRevision | None, known_epoch: str | None = None) -> bool:
        """Whether a snapshot is of the recorded database and not older. If so, records it.

        `known` is the value of `recorded()` before the request of the snapshot. Only then must the snapshot be as new,
        because other processes record later revisions while the response is under way. `known_epoch` is the epoch that
        the database has for the revision of `known`.
        """
        with self._lock:
            if known is not None and snapshot.store_id and not snapshot.continues(known, known_epoch):
                if snapshot.store_id == known.store_id:
                    self._write(replace(known, is_rolled_back=True))
                return False
            self._newest = snapshot
            self._write(snapshot)
            return True

    def record(self, newest: StoreRevision) -> None:
        """Records a later revision of an accepted database, at most once per WRITE_INTERVAL_SECONDS."""
        with self._lock:
            if self._newest is None or not newest.continues(self._newest):
                return
            self._newest = newest
            recorded = read_record(self._file)
            if recorded is not None and not newest.continues(recorded):
                return
            if recorded is None or time.monotonic() - self._written_at >= WRITE_INTERVAL_SECONDS:
                self._write(newest)

    def _write(self, newest: StoreRevision) -> None:
        if not newest.store_id or read_record(self._file) == newest:
            return
        draft = self._file.with_suffix(f".{os.getpid()}")
        try:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with draft.open("w") as file:
                file.write(json.dumps(asdict(newest)))
                file.flush()
                os.fsync(file.fileno())  # otherwise the file can be empty after a power loss
            draft.replace(self._file)
        except OSError as error:
            if not self._write_failed:
                log.warning("store revision not recorded", file=str(self._file), error=str(error))
            self._write_failed = True
        else:
            self._write_failed = False
            self._written_at = time.monotonic()


def read_record(file: Path) -> StoreRevision | None:
    """The content of a file. None if there is no file, or it is corrupt."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        content = json.loads(file.read_text())
        return StoreRevision(
            str(content["store_id"]),
            int(content["revision"]),
            bool(content.get("is_rolled_back", False)),
            str(content.get("epoch", "")),
        )
    return None


def _record_of_others(file: Path) -> StoreRevision | None:
    """The record for a program whose own file is missing or corrupt.

    A corrupt file on a host without another record does not show which database the host had. Nothing continues it.
    """
    others = [record for other in sorted(file.parent.glob("*.json")) if (record := read_record(other)) is not None]
    if others:
        return min(others, key=lambda record: (not record.is_rolled_back, -record.revision))
    return StoreRevision(UNREADABLE, 0) if file.exists() else None


def has_records(state_path: Path) -> bool:
    """Whether a program of this host has recorded a database."""
    return any((state_path / FOLDER).glob("*.json"))


def forget_store(state_path: Path) -> int:
    """Deletes the records of all programs of a host, so that they accept the current database. Returns their number."""
    folder, forgotten = state_path / FOLDER, state_path / f"{FOLDER}.forgotten"
    shutil.rmtree(forgotten, ignore_errors=True)
    if not folder.exists():
        return 0
    # At once: a program that finds its own record deleted reads those of the others.
    folder.rename(forgotten)
    count = len(list(forgotten.glob("*.json")))
    shutil.rmtree(forgotten, ignore_errors=True)
    return count
