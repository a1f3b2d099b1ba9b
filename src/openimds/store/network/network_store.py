"""The store of the network API: one transaction for each call, filters and sort keys of lists, Neutron's JSON as result."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session, selectinload

from openimds.resources.caller import Caller
from openimds.resources.errors import BadRequest, NotFound, PreconditionFailed
from openimds.resources.query import ListQuery, Page
from openimds.store import pagination
from openimds.store.engine import Store, utc_now
from openimds.store.models.network import FloatingIP, IPAllocation, Network, Port, Router, SecurityGroup, Subnet
from openimds.store.network import access, agents, floating_ips, ipam, networks, ports, routers, security_groups
from openimds.store.network.access import get_owned, get_visible, visible_to
from openimds.store.network.serializers import render
from openimds.store.pagination import Filter, ListSpec, as_bool, constant


def _columns(model: type[Any], **more: Any) -> dict[str, Any]:
    plain = ("id", "project_id", "description", "created_at", "updated_at")
    named = {name.replace("__", ":"): column for name, column in more.items()}
    revision = {"revision_number": model.revision_number} if hasattr(model, "revision_number") else {}
    return {**{name: getattr(model, name) for name in plain}, "tenant_id": model.project_id, **revision, **named}


def _holds(column: Any, value: str) -> sa.ColumnElement[bool]:
    """The condition that a JSON list contains the text: in the stored text it follows `[` or `, `, in quotes.

    REPLACE compares case in both databases. SQLite's LIKE does not.
    """
    stored = sa.cast(column, sa.Text)
    quoted = json.dumps(value)
    return sa.or_(*(sa.func.replace(stored, start + quoted, "") != stored for start in ("[", ", ")))


MAX_FILTER_TAGS = 50
"""No resource has more tags. Each tag of a filter is a condition of the SQL statement."""


def _tag_filters(model: type[Any]) -> dict[str, Filter]:
    def split(values: Sequence[str]) -> list[str]:
        tags = list(dict.fromkeys(tag for value in values for tag in value.split(",") if tag))
        if len(tags) > MAX_FILTER_TAGS:
            raise BadRequest("tags", f"Invalid input for operation: tags: a filter has at most {MAX_FILTER_TAGS} tags.")
        return tags

    def holds_all(values: Sequence[str]) -> sa.ColumnElement[bool]:
        return sa.and_(sa.true(), *(_holds(model.tags, tag) for tag in split(values)))

    def holds_any(values: Sequence[str]) -> sa.ColumnElement[bool]:
        return sa.or_(sa.false(), *(_holds(model.tags, tag) for tag in split(values)))

    return {
        "tags": holds_all,
        "tags-any": holds_any,
        "not-tags": lambda values: sa.not_(holds_all(values)),
        "not-tags-any": lambda values: sa.not_(holds_any(values)),
    }


def _fixed_ips(values: Sequence[str]) -> sa.ColumnElement[bool]:
    """Filters `ip_address=10.0.0.5`, `subnet_id=…`, `ip_address_substr=10.0`. Values of one name are alternatives, and one
    fixed IP must match all names.
    """
    values_by_name: dict[str, list[str]] = {}
    for value in values:
        name, found, what = value.partition("=")
        if not found or name not in ("ip_address", "subnet_id", "ip_address_substr"):
            message = f"Invalid input for operation: fixed_ips: '{value}' is not ip_address=…, subnet_id=… ."
            raise BadRequest("fixed_ips", message, kind="InvalidInput")
        values_by_name.setdefault(name, []).append(what)
    row = IPAllocation
    conditions: list[sa.ColumnElement[bool]] = []
    if "ip_address" in values_by_name:
        conditions.append(row.ip_address.in_([_canonical(address) for address in values_by_name["ip_address"]]))
    if "subnet_id" in values_by_name:
        conditions.append(row.subnet_id.in_(values_by_name["subnet_id"]))
    if "ip_address_substr" in values_by_name:
        conditions.append(
            sa.or_(*(row.ip_address.contains(part, autoescape=True) for part in values_by_name["ip_address_substr"]))
        )
    return Port.id.in_(sa.select(row.port_id).where(*conditions))


def _canonical(address: str) -> str:
    """The address of a filter in the canonical form of stored addresses. A malformed address stays and matches nothing."""
    try:
        return str(ip_address(address))
    except ValueError:
        return address


def _security_groups(values: Sequence[str]) -> sa.ColumnElement[bool]:
    return sa.or_(*(_holds(Port.security_group_ids, value) for value in values))


def _mac_address(values: Sequence[str]) -> sa.ColumnElement[bool]:
    return Port.mac_address.in_([value.lower().replace("-", ":") for value in values])


def _subnet_shared(values: Sequence[str]) -> sa.ColumnElement[bool]:
    flags = [as_bool("shared", value) for value in values]
    return Subnet.network_id.in_(sa.select(Network.id).where(Network.shared.in_(flags)))


def _subnet_external(values: Sequence[str]) -> sa.ColumnElement[bool]:
    flags = [as_bool("router:external", value) for value in values]
    return Subnet.network_id.in_(sa.select(Network.id).where(Network.external.in_(flags)))


def _network_subnets(values: Sequence[str]) -> sa.ColumnElement[bool]:
    return Network.id.in_(sa.select(Subnet.network_id).where(Subnet.id.in_(values)))


def _floating_status(values: Sequence[str]) -> sa.ColumnElement[bool]:
    conditions = {"ACTIVE": FloatingIP.port_id.is_not(None), "DOWN": FloatingIP.port_id.is_(None)}
    return sa.or_(sa.false(), *(conditions[v.upper()] for v in values if v.upper() in conditions))


def _gateway_network(values: Sequence[str]) -> sa.ColumnElement[bool]:
    """The filter `external_gateway_info.network_id`."""
    return sa.or_(*(Router.external_network_id == value for value in values))


def _network_columns() -> dict[str, Any]:
    row = Network
    return _columns(
        row,
        name=row.name,
        admin_state_up=row.admin_state_up,
        shared=row.shared,
        mtu=row.mtu,
        port_security_enabled=row.port_security_enabled,
        dns_domain=row.dns_domain,
        router__external=row.external,
        provider__network_type=row.provider_network_type,
        provider__physical_network=row.provider_physical_network,
        provider__segmentation_id=row.provider_segmentation_id,
    )


def _subnet_columns() -> dict[str, Any]:
    row = Subnet
    names = (
        "name",
        "network_id",
        "ip_version",
        "cidr",
        "gateway_ip",
        "enable_dhcp",
        "ipv6_ra_mode",
        "ipv6_address_mode",
    )
    return _columns(row, **{name: getattr(row, name) for name in names})


def _port_columns() -> dict[str, Any]:
    row = Port
    names = ("name", "network_id", "mac_address", "device_id", "device_owner", "admin_state_up", "status")
    more = ("port_security_enabled", "dns_name")
    return _columns(
        row,
        **{name: getattr(row, name) for name in (*names, *more)},
        binding__host_id=row.host,
        binding__vnic_type=row.vnic_type,
    )


def _floating_ip_columns() -> dict[str, Any]:
    row = FloatingIP
    names = ("floating_network_id", "floating_ip_address", "fixed_ip_address", "port_id", "router_id")
    return _columns(row, **{name: getattr(row, name) for name in names})


COLLECTIONS: Mapping[str, ListSpec] = {
    "network": ListSpec(
        model=Network,
        columns=_network_columns(),
        filters={
            **_tag_filters(Network),
            "status": constant("ACTIVE"),
            "is_default": constant(value=False),
            "ipv4_address_scope": constant(""),
            "ipv6_address_scope": constant(""),
            "subnets": _network_subnets,
        },
        options=(selectinload(Network.subnets),),
    ),
    "subnet": ListSpec(
        model=Subnet,
        columns=_subnet_columns(),
        filters={
            **_tag_filters(Subnet),
            "shared": _subnet_shared,
            "router:external": _subnet_external,
            "subnetpool_id": constant(""),
            "segment_id": constant(""),
        },
    ),
    "port": ListSpec(
        model=Port,
        columns=_port_columns(),
        filters={
            **_tag_filters(Port),
            "fixed_ips": _fixed_ips,
            "security_groups": _security_groups,
            "mac_address": _mac_address,
        },
        options=(selectinload(Port.fixed_ips),),
    ),
    "router": ListSpec(
        model=Router,
        columns=_columns(Router, name=Router.name, admin_state_up=Router.admin_state_up),
        filters={
            **_tag_filters(Router),
            "status": constant("ACTIVE"),
            "distributed": constant(value=False),
            "ha": constant(value=False),
            "external_gateway_info.network_id": _gateway_network,
        },
    ),
    "floatingip": ListSpec(
        model=FloatingIP,
        columns=_floating_ip_columns(),
        filters={**_tag_filters(FloatingIP), "status": _floating_status},
    ),
    "security_group": ListSpec(
        model=SecurityGroup,
        columns=_columns(SecurityGroup, name=SecurityGroup.name),
        filters={
            **_tag_filters(SecurityGroup),
            "stateful": constant(value=True),
            "shared": constant(value=False),
        },
    ),
}

OPERATORS_ONLY: Mapping[str, Sequence[str]] = {
    "network": ("provider:network_type", "provider:physical_network", "provider:segmentation_id"),
    "port": ("binding:host_id",),
}
"""Attributes that only administrators and services see."""

COLLECTIONS_OF_MEMBERS: Mapping[str, ListSpec] = {
    kind: collection.without(OPERATORS_ONLY.get(kind, ())) for kind, collection in COLLECTIONS.items()
}


Create = Callable[[Session, Caller, Mapping[str, Any], datetime], Any]
Update = Callable[[Session, Caller, str, Mapping[str, Any], datetime], Any]
Delete = Callable[[Session, Caller, str, datetime], None]


@dataclass(frozen=True, slots=True)
class Operations:
    """The operations of one kind of resource."""

    create: Create
    update: Update
    delete: Delete


OPERATIONS: Mapping[str, Operations] = {
    "network": Operations(networks.create_network, networks.update_network, networks.delete_network),
    "subnet": Operations(networks.create_subnet, networks.update_subnet, networks.delete_subnet),
    "port": Operations(ports.create_port, ports.update_port, ports.delete_own_port),
    "router": Operations(routers.create_router, routers.update_router, routers.delete_router),
    "floatingip": Operations(floating_ips.create, floating_ips.update, floating_ips.delete),
    "security_group": Operations(security_groups.create, security_groups.update, security_groups.delete),
}


class NetworkStore:
    """The store of the network API. `kind` is a key of OPERATIONS. All methods raise the errors of resources/errors.py."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Callable[[], datetime] = utc_now,
        limits: Mapping[str, int] = access.QUOTAS,
        agent_down_after: timedelta = agents.DOWN_AFTER,
    ) -> None:
        self._store = store
        self._clock = clock
        self._limits = limits
        self._agent_down_after = agent_down_after

    def list(self, kind: str, caller: Caller, query: ListQuery) -> Page[dict[str, Any]]:
        """One page of the resources that the caller may see."""
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
        """Creates all resources of a request, or none."""
        now = self._clock()
        with self._store.write(now) as session:
            rows = [OPERATIONS[kind].create(session, caller, attributes, now) for attributes in bodies]
            for project_id in {row.project_id for row in rows}:
                access.check_quota(session, kind, project_id, self._limits)
        with self._store.read() as session:
            return render(session, _read_again(session, COLLECTIONS[kind], rows), is_admin=caller.is_admin)

    def update(
        self,
        kind: str,
        caller: Caller,
        resource_id: str,
        attributes: Mapping[str, Any],
        *,
        if_revision: int | None = None,
    ) -> dict[str, Any]:
        """Changes the given attributes. Raises PreconditionFailed if the revision number is not `if_revision`."""
        now = self._clock()
        with self._store.write(now) as session:
            self._check_revision(session, caller, kind, resource_id, if_revision)
            row = OPERATIONS[kind].update(session, caller, resource_id, attributes, now)
            return self._rendered(session, caller, row)

    def delete(self, kind: str, caller: Caller, resource_id: str, *, if_revision: int | None = None) -> None:
        """Deletes a resource. Raises PreconditionFailed if the revision number is not `if_revision`."""
        now = self._clock()
        with self._store.write(now) as session:
            self._check_revision(session, caller, kind, resource_id, if_revision)
            OPERATIONS[kind].delete(session, caller, resource_id, now)

    def add_router_interface(self, caller: Caller, router_id: str, which: Mapping[str, Any]) -> dict[str, Any]:
        """Attaches a subnet or a port."""
        now = self._clock()
        with self._store.write(now) as session:
            return routers.add_interface(session, caller, router_id, which, now)

    def remove_router_interface(self, caller: Caller, router_id: str, which: Mapping[str, Any]) -> dict[str, Any]:
        """Detaches a subnet or a port."""
        now = self._clock()
        with self._store.write(now) as session:
            return routers.remove_interface(session, caller, router_id, which, now)

    def change_routes(
        self, caller: Caller, router_id: str, changes: Mapping[str, Sequence[Mapping[str, str]]]
    ) -> dict[str, Any]:
        """Adds and removes extra routes: `{"add": […], "remove": […]}`. Returns the router."""
        now = self._clock()
        with self._store.write(now) as session:
            return self._rendered(session, caller, routers.change_routes(session, caller, router_id, changes, now))

    def tags(self, kind: str, caller: Caller, resource_id: str) -> Sequence[str]:
        """The tags of a resource."""
        with self._store.read() as session:
            return list(get_visible(session, caller, COLLECTIONS[kind].model, resource_id).tags)

    def change_tags(
        self, kind: str, caller: Caller, resource_id: str, change: Callable[[Sequence[str]], Sequence[str]]
    ) -> Sequence[str]:
        """Replaces the tags by the result of `change`. Returns the new tags."""
        now = self._clock()
        with self._store.write(now) as session:
            row = get_owned(session, caller, COLLECTIONS[kind].model, resource_id, f"update_{kind}")
            tags = list(dict.fromkeys(change(list(row.tags))))
            if kind == "subnet":
                networks.check_tags(caller, "update_subnet", row.project_id, row.tags, tags)
            if tags != row.tags:
                row.tags = tags
                row.updated_at = now
            return tags

    def agents(self, caller: Caller, query: ListQuery) -> Sequence[dict[str, Any]]:
        """All agents that the caller may see."""
        with self._store.read() as session:
            return agents.list_agents(session, caller, query, self._clock() - self._agent_down_after)

    def agent(self, caller: Caller, agent_id: str) -> dict[str, Any]:
        """One agent. Raises NotFound."""
        with self._store.read() as session:
            return agents.show_agent(session, caller, agent_id, self._clock() - self._agent_down_after)

    def delete_agent(self, caller: Caller, agent_id: str) -> None:
        """Deletes an agent."""
        now = self._clock()
        with self._store.write(now) as session:
            agents.delete(session, caller, agent_id, now)

    def quota_details(self, caller: Caller, project_id: str) -> dict[str, dict[str, int]]:
        """Quotas and usage. Raises NotFound for the project of another caller."""
        if not caller.may("get_quota", project_id):
            raise NotFound(f"Project {project_id} could not be found.", kind="ProjectNotFound")
        with self._store.read() as session:
            return access.quota_details(session, project_id, self._limits)

    def quota_limits(self) -> dict[str, int]:
        """The quotas, which are equal for all projects."""
        return dict(self._limits)

    def ip_availabilities(self, caller: Caller, query: ListQuery) -> Sequence[dict[str, Any]]:
        """The IP availability of all networks."""
        with self._store.read() as session:
            return ipam.list_ip_availability(session, caller, query)

    def ip_availability(self, caller: Caller, network_id: str) -> dict[str, Any]:
        """The IP availability of one network."""
        with self._store.read() as session:
            return ipam.show_ip_availability(session, caller, network_id)

    def _check_revision(
        self, session: Session, caller: Caller, kind: str, resource_id: str, if_revision: int | None
    ) -> None:
        """Raises PreconditionFailed. The transaction has the write lock, so the revision number stays until its end."""
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


def _read_again(session: Session, collection: ListSpec, rows: Sequence[Any]) -> list[Any]:
    """The rows of a creation as they are after its transaction, in the same order. A row that is gone again is left out."""
    model = collection.model
    statement = sa.select(model).where(model.id.in_([row.id for row in rows])).options(*collection.options)
    fresh = {row.id: row for row in session.scalars(statement)}
    return [fresh[row.id] for row in rows if row.id in fresh]
