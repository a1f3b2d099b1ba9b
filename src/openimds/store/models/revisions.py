"""The revisions of what is watched (store/change_log.py writes them)."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, DateTime, String
from sqlalchemy.orm import Mapped, mapped_column

from openimds.store.models.base import Base


class RevisionCounter(Base):
    """One row. `value` is the newest committed revision, `floor` the newest one whose changes were pruned."""

    __tablename__ = "revision_counter"
    id: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[int] = mapped_column(BigInteger)
    floor: Mapped[int] = mapped_column(BigInteger, default=0)


class Change(Base):
    """Which object a revision wrote or deleted: the tombstones live here until they are pruned."""

    __tablename__ = "changes"
    revision: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    kind: Mapped[str] = mapped_column(String(32), primary_key=True)
    object_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    deleted: Mapped[bool]
    at: Mapped[datetime] = mapped_column(DateTime, index=True)
