"""What the network API needs of a store, declared here by the one who calls it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from openimds.resources.caller import Caller
from openimds.resources.query import ListQuery, Page


class Resources(Protocol):
    """Collections of resources; `kind` as in attributes.KINDS."""

    def list(self, kind: str, caller: Caller, query: ListQuery) -> Page: ...

    def show(self, kind: str, caller: Caller, resource_id: str) -> dict[str, Any]: ...

    def create(self, kind: str, caller: Caller, bodies: Sequence[Mapping[str, Any]]) -> Sequence[dict[str, Any]]: ...

    def update(
        self, kind: str, caller: Caller, resource_id: str, attributes: Mapping[str, Any], *, if_revision: int | None
    ) -> dict[str, Any]: ...

    def delete(self, kind: str, caller: Caller, resource_id: str, *, if_revision: int | None) -> None: ...


class Tags(Protocol):
    """Tags of any resource."""

    def tags(self, kind: str, caller: Caller, resource_id: str) -> Sequence[str]: ...

    def change_tags(
        self, kind: str, caller: Caller, resource_id: str, change: Callable[[Sequence[str]], Sequence[str]]
    ) -> Sequence[str]: ...


class RouterActions(Protocol):
    """What routers can do beyond being changed."""

    def add_router_interface(self, caller: Caller, router_id: str, which: Mapping[str, Any]) -> dict[str, Any]: ...

    def remove_router_interface(self, caller: Caller, router_id: str, which: Mapping[str, Any]) -> dict[str, Any]: ...

    def change_routes(
        self, caller: Caller, router_id: str, changes: Mapping[str, Sequence[Mapping[str, str]]]
    ) -> dict[str, Any]: ...


class Agents(Protocol):
    """Agents as operators see them."""

    def agents(self, caller: Caller, query: ListQuery) -> Sequence[dict[str, Any]]: ...

    def agent(self, caller: Caller, agent_id: str) -> dict[str, Any]: ...

    def delete_agent(self, caller: Caller, agent_id: str) -> None: ...


class UsageStore(Protocol):
    """Quotas, and how full networks are."""

    def quota_limits(self) -> Mapping[str, int]: ...

    def quota_details(self, caller: Caller, project_id: str) -> Mapping[str, Mapping[str, int]]: ...

    def ip_availabilities(self, caller: Caller, query: ListQuery) -> Sequence[dict[str, Any]]: ...

    def ip_availability(self, caller: Caller, network_id: str) -> dict[str, Any]: ...


class NetworkOperations(Resources, Tags, RouterActions, Agents, UsageStore, Protocol):
    """All of it: `store.network.service.NetworkStore` is one."""
