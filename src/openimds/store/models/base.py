"""The base of all tables, the agents, and the revisions. Ids are UUIDs as text, times are UTC without a zone, and addresses
are text in canonical form.

`watched()` of a table yields the (kind, id) pairs whose watchers are notified when a row is written: the row itself, or the
row that owns it (a fixed IP belongs to its port). store/change_log.py records these changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, String, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

UUID = String(36)
NAME = String(255)


class Base(DeclarativeBase):
    """The base class of all tables."""

    type_annotation_map = {dict[str, Any]: JSON, list[Any]: JSON}  # noqa: RUF012 - SQLAlchemy's own spelling


class Watched:
    """A table with watched rows. `watch_kind` is their kind in the watch (docs/design/watch.md)."""

    watch_kind: str
    id: Mapped[str]
    revision_number: Mapped[int]

    def watched(self) -> Iterator[tuple[str, str]]:
        yield self.watch_kind, self.id


class Agent(Base):
    """An agent of a host. It is alive if its heartbeat is younger than agent_down_time."""

    __tablename__ = "agents"
    __table_args__ = (UniqueConstraint("binary", "host"),)
    id: Mapped[str] = mapped_column(UUID, primary_key=True)
    binary: Mapped[str] = mapped_column(NAME)
    """`openimds-dhcp-agent`, `openimds-l3-agent`, `openimds-metadata-agent`, `openimds-compute-agent`."""
    agent_type: Mapped[str] = mapped_column(NAME)
    """Neutron's types `DHCP agent`, `L3 agent` and `Metadata agent`, and `Compute agent`."""
    host: Mapped[str] = mapped_column(NAME)
    configurations: Mapped[dict[str, Any]]
    """Settings and last pass of the agent, as the status page and `openimds status` show them."""
    created_at: Mapped[datetime]
    started_at: Mapped[datetime]
    heartbeat_at: Mapped[datetime]


class RevisionCounter(Base):
    """A table of one row. `value` is the newest committed revision. Changes up to revision `floor` were pruned."""

    __tablename__ = "revision_counter"
    id: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[int] = mapped_column(BigInteger)
    floor: Mapped[int] = mapped_column(BigInteger, default=0)
    store_id: Mapped[str] = mapped_column(UUID, server_default="")
    """The identity of the database. A copy of it has the same."""


class Epoch(Base):
    """A part of the revision history (store/raw/epochs.py), up to the first revision of the next epoch."""

    __tablename__ = "epochs"
    first_revision: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    id: Mapped[str] = mapped_column(UUID)


class Change(Base):
    """An object that a revision wrote or deleted. Deletions stay here as tombstones until they are pruned."""

    __tablename__ = "changes"
    revision: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    kind: Mapped[str] = mapped_column(String(32), primary_key=True)
    object_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    deleted: Mapped[bool]
    at: Mapped[datetime] = mapped_column(DateTime, index=True)
