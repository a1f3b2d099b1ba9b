"""The programs that do the work on the hosts: Neutron's agents, and the compute agent."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from openimds.store.models.base import NAME, UUID, Base


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
