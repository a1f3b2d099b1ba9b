"""What all tables have in common. Ids are UUIDs as text, times are UTC without zone, addresses canonical text.

A class whose `watched()` yields (kind, id) pairs tells the store what a watcher hears of when one of its rows is
written: a row of its own kind, or the row that owns it (an allocation belongs to its port).

The programs that do the work on the hosts: Neutron's agents, and the compute agent.

The revisions of what is watched (store/change_log.py writes them).
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
    """All tables."""

    type_annotation_map = {dict[str, Any]: JSON, list[Any]: JSON}  # noqa: RUF012 - SQLAlchemy's own spelling


class Watched:
    """A row that watchers hear of. `watch_kind` is the kind's name on the wire (docs/design/watch.md)."""

    watch_kind: str
    id: Mapped[str]
    revision_number: Mapped[int]

    def watched(self) -> Iterator[tuple[str, str]]:
        yield self.watch_kind, self.id


class Agent(Base):
    """One row a program and host; alive when its heartbeat is younger than agent_down_time."""

    __tablename__ = "agents"
    __table_args__ = (UniqueConstraint("binary", "host"),)
    id: Mapped[str] = mapped_column(UUID, primary_key=True)
    binary: Mapped[str] = mapped_column(NAME)
    """`openimds-dhcp-agent`, `openimds-l3-agent`, `openimds-metadata-agent`, `openimds-compute-agent`."""
    agent_type: Mapped[str] = mapped_column(NAME)
    """Neutron's words: `DHCP agent`, `L3 agent`, `Metadata agent`; `Compute agent` for ours."""
    host: Mapped[str] = mapped_column(NAME)
    configurations: Mapped[dict[str, Any]]
    """What the agent says of itself, settings and last round, as the status page and `openimds status` show it."""
    created_at: Mapped[datetime]
    started_at: Mapped[datetime]
    heartbeat_at: Mapped[datetime]


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
