"""Epochs: the parts of the revision history of a database.

A restored copy of a database continues with revisions that the lost part had, too. Therefore each process starts an epoch
with its first revision, and with the first one after the database went back to an older revision while the process ran.
A revision together with the id of its epoch identifies a state of the database: after a restore, a lost revision belongs
to another epoch or does not exist.
"""

from __future__ import annotations

import threading
import uuid

from openimds.store.raw.database import Transaction
from openimds.store.raw.statements import Query

_EPOCH_AT = Query(
    ("id",),
    "(SELECT id FROM epochs WHERE first_revision <= :revision ORDER BY first_revision DESC LIMIT 1) AS found",
)


class EpochTracker:
    """The revisions that this process knows. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._has_started = False
        self._newest = 0

    def starts_with(self, revision: int) -> bool:
        """Whether an epoch starts with this revision, which the caller is about to commit."""
        with self._lock:
            return not self._has_started or revision <= self._newest

    def committed(self, revision: int) -> None:
        """Records a revision that this process has committed."""
        with self._lock:
            self._has_started, self._newest = True, revision

    def saw(self, revision: int) -> None:
        """Records a revision that this process has read."""
        with self._lock:
            self._newest = max(self._newest, revision)


def new_epoch_id() -> str:
    """A random id."""
    return uuid.uuid4().hex


def epoch_at(transaction: Transaction, revision: int) -> str:
    """The id of the epoch of a revision. Empty if the database is older than its first epoch."""
    rows = transaction.rows(_EPOCH_AT, revision=revision)
    return str(rows[0][0]) if rows else ""
