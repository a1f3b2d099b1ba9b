"""Compute hosts, and the choice of a host for a new server."""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Session

from openimds.resources import compute as nouns
from openimds.resources.compute import COMPUTE_AGENT_BINARY, DEFAULT_ZONE
from openimds.store.engine import Store, utc_now
from openimds.store.models.base import Agent
from openimds.store.models.compute import Server


class Hosts:
    def __init__(self, store: Store, agent_down_seconds: float) -> None:
        self._store = store
        self._down_after = timedelta(seconds=agent_down_seconds)

    def list(self) -> list[nouns.ComputeHost]:
        """All hosts with a compute agent that ever sent a heartbeat, by name."""
        with self._store.read() as session:
            return compute_hosts(session, self._down_after)


def compute_hosts(session: Session, down_after: timedelta) -> list[nouns.ComputeHost]:
    """The hosts of all compute agents, with the number of their servers."""
    placed = sa.select(Server.host, sa.func.count()).where(Server.host != "").group_by(Server.host)
    counts: dict[str, int] = dict(session.execute(placed).all())
    alive_after = utc_now() - down_after
    rows = session.scalars(sa.select(Agent).where(Agent.binary == COMPUTE_AGENT_BINARY).order_by(Agent.host))
    return [
        nouns.ComputeHost(
            name=row.host,
            zone=str(row.configurations.get("availability_zone") or DEFAULT_ZONE),
            driver=str(row.configurations.get("driver") or "netns"),
            alive=row.heartbeat_at >= alive_after,
            agent_id=row.id,
            heartbeat_at=row.heartbeat_at,
            started_at=row.started_at,
            configurations=dict(row.configurations),
            running_servers=counts.get(row.host, 0),
        )
        for row in rows
    ]


def schedule(
    hosts: list[nouns.ComputeHost], count: int, *, zone: str | None, name: str | None
) -> list[nouns.ComputeHost]:
    """A host for each of `count` servers: the matching host with the fewest servers. Empty if no host matches."""
    fit = [host for host in hosts if host.alive and zone in {None, host.zone} and name in {None, host.name}]
    load = {host.name: host.running_servers for host in fit}
    chosen: list[nouns.ComputeHost] = []
    for _ in range(count if fit else 0):
        best = min(fit, key=lambda host: (load[host.name], host.name))
        load[best.name] += 1
        chosen.append(best)
    return chosen
