"""The network store: every call of the network API, one transaction each, answered in Neutron's JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from openimds.resources.caller import Caller
from openimds.resources.errors import NotFound, PreconditionFailed
from openimds.resources.query import ListQuery, Page
from openimds.store import pagination
from openimds.store.engine import Store, utc_now
from openimds.store.network import (
    agents,
    floating_ips,
    networks,
    ports,
    router_interfaces,
    routers,
    security_groups,
    subnets,
    usage,
)
from openimds.store.network.access import get_owned, get_visible, visible_to
from openimds.store.network.list_specs import COLLECTIONS, COLLECTIONS_OF_MEMBERS
from openimds.store.network.serializers import render

Create = Callable[[Session, Caller, Mapping[str, Any], datetime], Any]
Update = Callable[[Session, Caller, str, Mapping[str, Any], datetime], Any]
Delete = Callable[[Session, Caller, str, datetime], None]


@dataclass(frozen=True, slots=True)
class Operations:
    """What can be done with one kind of resource."""

    create: Create
    update: Update
    delete: Delete


OPERATIONS: Mapping[str, Operations] = {
    "network": Operations(networks.create, networks.update, networks.delete),
    "subnet": Operations(subnets.create, subnets.update, subnets.delete),
    "port": Operations(ports.create_port, ports.update_port, ports.delete_own_port),
    "router": Operations(routers.create, routers.update, routers.delete),
    "floatingip": Operations(floating_ips.create, floating_ips.update, floating_ips.delete),
    "security_group": Operations(security_groups.create, security_groups.update, security_groups.delete),
}


class NetworkStore:
    """`kind` is a key of OPERATIONS. All methods raise the errors of resources/errors.py."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Callable[[], datetime] = utc_now,
        limits: Mapping[str, int] = usage.LIMITS,
        agent_down_after: timedelta = agents.DOWN_AFTER,
    ) -> None:
        self._store = store
        self._clock = clock
        self._limits = limits
        self._agent_down_after = agent_down_after

    def list(self, kind: str, caller: Caller, query: ListQuery) -> Page:
        """One page of what the caller may see."""
        if kind == "security_group":
            self._ensure_default_group(caller.project_id)
        collection = (COLLECTIONS if caller.is_admin else COLLECTIONS_OF_MEMBERS)[kind]
        with self._store.read() as session:
            rows, more = pagination.page(session, collection, query, visible_to(caller, collection.model))
            return Page(tuple(render(session, rows, is_admin=caller.is_admin)), more)

    def show(self, kind: str, caller: Caller, resource_id: str) -> dict[str, Any]:
        """One resource. Raises NotFound."""
        with self._store.read() as session:
            return self._rendered(session, caller, get_visible(session, caller, COLLECTIONS[kind].model, resource_id))

    def create(self, kind: str, caller: Caller, bodies: Sequence[Mapping[str, Any]]) -> Sequence[dict[str, Any]]:
        """All of them or, when one cannot be made, none."""
        now = self._clock()
        with self._store.write(now) as session:
            rows = []
            for attributes in bodies:
                rows.append(OPERATIONS[kind].create(session, caller, attributes, now))
                usage.check(session, kind, rows[-1].project_id, self._limits)
        with self._store.read() as session:
            fresh = [get_visible(session, caller, COLLECTIONS[kind].model, row.id) for row in rows]
            return render(session, fresh, is_admin=caller.is_admin)

    def update(
        self,
        kind: str,
        caller: Caller,
        resource_id: str,
        attributes: Mapping[str, Any],
        *,
        if_revision: int | None = None,
    ) -> dict[str, Any]:
        """Change what is named. Raises PreconditionFailed when its revision number is not `if_revision`."""
        now = self._clock()
        with self._store.write(now) as session:
            self._check_revision(session, caller, kind, resource_id, if_revision)
            row = OPERATIONS[kind].update(session, caller, resource_id, attributes, now)
            return self._rendered(session, caller, row)

    def delete(self, kind: str, caller: Caller, resource_id: str, *, if_revision: int | None = None) -> None:
        """Remove it. Raises PreconditionFailed when its revision number is not `if_revision`."""
        now = self._clock()
        with self._store.write(now) as session:
            self._check_revision(session, caller, kind, resource_id, if_revision)
            OPERATIONS[kind].delete(session, caller, resource_id, now)

    def add_router_interface(self, caller: Caller, router_id: str, which: Mapping[str, Any]) -> dict[str, Any]:
        """Attach a subnet or a port."""
        now = self._clock()
        with self._store.write(now) as session:
            return router_interfaces.add(session, caller, router_id, which, now)

    def remove_router_interface(self, caller: Caller, router_id: str, which: Mapping[str, Any]) -> dict[str, Any]:
        """Detach a subnet or a port."""
        now = self._clock()
        with self._store.write(now) as session:
            return router_interfaces.remove(session, caller, router_id, which, now)

    def change_routes(
        self, caller: Caller, router_id: str, changes: Mapping[str, Sequence[Mapping[str, str]]]
    ) -> dict[str, Any]:
        """`{"add": […], "remove": […]}`; the router afterwards."""
        now = self._clock()
        with self._store.write(now) as session:
            return self._rendered(session, caller, routers.change_routes(session, caller, router_id, changes, now))

    def tags(self, kind: str, caller: Caller, resource_id: str) -> Sequence[str]:
        """A resource's tags."""
        with self._store.read() as session:
            return list(get_visible(session, caller, COLLECTIONS[kind].model, resource_id).tags)

    def change_tags(
        self, kind: str, caller: Caller, resource_id: str, change: Callable[[Sequence[str]], Sequence[str]]
    ) -> Sequence[str]:
        """Give it the tags that `change` makes of those that it has."""
        now = self._clock()
        with self._store.write(now) as session:
            row = get_owned(session, caller, COLLECTIONS[kind].model, resource_id)
            tags = list(dict.fromkeys(change(list(row.tags))))
            if kind == "subnet":
                subnets.check_tags(caller, row.tags, tags)
            if tags != row.tags:
                row.tags = tags
                row.updated_at = now
            return tags

    def agents(self, caller: Caller, query: ListQuery) -> Sequence[dict[str, Any]]:
        """All agents that the caller may see."""
        with self._store.read() as session:
            return agents.listed(session, caller, query, self._clock() - self._agent_down_after)

    def agent(self, caller: Caller, agent_id: str) -> dict[str, Any]:
        """One agent. Raises NotFound."""
        with self._store.read() as session:
            return agents.shown(session, caller, agent_id, self._clock() - self._agent_down_after)

    def delete_agent(self, caller: Caller, agent_id: str) -> None:
        """Forget it."""
        now = self._clock()
        with self._store.write(now) as session:
            agents.delete(session, caller, agent_id, now)

    def quota_details(self, caller: Caller, project_id: str) -> dict[str, dict[str, int]]:
        """Limits and use. Raises NotFound for another's project."""
        if not caller.owns(project_id):
            raise NotFound(f"Project {project_id} could not be found.", kind="ProjectNotFound")
        with self._store.read() as session:
            return usage.details(session, project_id, self._limits)

    def quota_limits(self) -> dict[str, int]:
        """The limits, alike for all projects."""
        return dict(self._limits)

    def ip_availabilities(self, caller: Caller, query: ListQuery) -> Sequence[dict[str, Any]]:
        """How full every network is."""
        with self._store.read() as session:
            return usage.listed(session, caller, query)

    def ip_availability(self, caller: Caller, network_id: str) -> dict[str, Any]:
        """How full one network is."""
        with self._store.read() as session:
            return usage.shown(session, caller, network_id)

    def _check_revision(
        self, session: Session, caller: Caller, kind: str, resource_id: str, if_revision: int | None
    ) -> None:
        """Writers come one at a time: what holds here holds until the transaction's end."""
        if if_revision is None:
            return
        row = get_visible(session, caller, COLLECTIONS[kind].model, resource_id)
        current = self._rendered(session, caller, row)["revision_number"]
        if current != if_revision:
            raise PreconditionFailed(
                f"Constrained to {if_revision}, but current revision is {current}.",
                kind="RevisionNumberConstraintFailed",
            )

    def _rendered(self, session: Session, caller: Caller, row: Any) -> dict[str, Any]:
        return render(session, [row], is_admin=caller.is_admin)[0]

    def _ensure_default_group(self, project_id: str) -> None:
        if not project_id:
            return
        with self._store.read() as session:
            if security_groups.has_default(session, project_id):
                return
        now = self._clock()
        with self._store.write(now) as session:
            security_groups.ensure_default(session, project_id, now)
