"""Agents: heartbeats, and the agents API."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from openimds.resources.caller import Caller
from openimds.resources.errors import BadRequest, Forbidden
from openimds.resources.query import ListQuery
from openimds.store.models.base import Agent
from openimds.store.network.access import not_found
from openimds.store.network.serializers import agent_json
from openimds.store.pagination import as_bool

DOWN_AFTER = timedelta(seconds=20)
"""The default of Neutron's agent_down_time: an agent with an older heartbeat is not alive."""

TEXT_FILTERS = ("id", "agent_type", "binary", "host", "topic", "availability_zone", "description")
BOOL_FILTERS = ("alive", "admin_state_up")


def heartbeat(session: Session, binary: str, host: str, report: Mapping[str, Any], now: datetime) -> None:
    """Stores a heartbeat. `report`: `agent_type`, `started_at` (datetime), `configurations` (docs/design/watch.md)."""
    agent = session.scalar(sa.select(Agent).where(Agent.binary == binary, Agent.host == host))
    if agent is None:
        agent = Agent(id=str(uuid.uuid4()), binary=binary, host=host, created_at=now)
        session.add(agent)
    agent.agent_type = report["agent_type"]
    agent.started_at = report["started_at"]
    agent.configurations = dict(report["configurations"])
    agent.heartbeat_at = now
    session.flush()


def list_agents(session: Session, caller: Caller, query: ListQuery, alive_since: datetime) -> list[dict[str, Any]]:
    """All matching agents, by host and binary. Empty unless the caller is an administrator."""
    if not caller.may("get_agent", caller.project_id):
        return []
    rows = session.scalars(sa.select(Agent).order_by(Agent.host, Agent.binary))
    shown = [agent_json(row, alive=row.heartbeat_at > alive_since) for row in rows]
    return [agent for agent in shown if _matches(agent, query)]


def show_agent(session: Session, caller: Caller, agent_id: str, alive_since: datetime) -> dict[str, Any]:
    """One agent. Raises NotFound."""
    row = session.get(Agent, agent_id) if caller.may("get_agent", caller.project_id) else None
    if row is None:
        raise not_found(Agent, agent_id)
    return agent_json(row, alive=row.heartbeat_at > alive_since)


def delete(session: Session, caller: Caller, agent_id: str, now: datetime) -> None:
    """Deletes an agent. A running agent is added again by its next heartbeat. Raises NotFound, Forbidden."""
    del now
    if not caller.may("delete_agent", caller.project_id):
        raise Forbidden("Only an administrator may delete an agent.", kind="PolicyNotAuthorized")
    row = session.get(Agent, agent_id)
    if row is None:
        raise not_found(Agent, agent_id)
    session.delete(row)
    session.flush()


def _matches(agent: Mapping[str, Any], query: ListQuery) -> bool:
    for name, values in query.filters.items():
        if name in BOOL_FILTERS:
            if agent[name] not in {as_bool(name, value) for value in values}:
                return False
        elif name in TEXT_FILTERS:
            if (agent[name] or "") not in values:
                return False
        else:
            raise BadRequest(name, f"{[name]} is invalid attribute for filtering; try again without.")
    return True
