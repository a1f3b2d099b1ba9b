"""The store that the network service needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from openimds.resources.caller import Caller
from openimds.resources.query import ListQuery, Page


class Resources(Protocol):
    """Resources of each kind in attributes.ATTRIBUTE_MAP."""

    def list(self, kind: str, caller: Caller, query: ListQuery) -> Page[dict[str, Any]]: ...

    def show(self, kind: str, caller: Caller, resource_id: str) -> dict[str, Any]: ...

    def create(self, kind: str, caller: Caller, bodies: Sequence[Mapping[str, Any]]) -> Sequence[dict[str, Any]]: ...

    def update(
        self, kind: str, caller: Caller, resource_id: str, attributes: Mapping[str, Any], *, if_revision: int | None
    ) -> dict[str, Any]: ...

    def delete(self, kind: str, caller: Caller, resource_id: str, *, if_revision: int | None) -> None: ...


class Tags(Protocol):
    """Tags of resources of each kind."""

    def tags(self, kind: str, caller: Caller, resource_id: str) -> Sequence[str]: ...

    def change_tags(
        self, kind: str, caller: Caller, resource_id: str, change: Callable[[Sequence[str]], Sequence[str]]
    ) -> Sequence[str]: ...


class RouterActions(Protocol):
    """Router interfaces and extra routes."""

    def add_router_interface(self, caller: Caller, router_id: str, which: Mapping[str, Any]) -> dict[str, Any]: ...

    def remove_router_interface(self, caller: Caller, router_id: str, which: Mapping[str, Any]) -> dict[str, Any]: ...

    def change_routes(
        self, caller: Caller, router_id: str, changes: Mapping[str, Sequence[Mapping[str, str]]]
    ) -> dict[str, Any]: ...


class Agents(Protocol):
    """The agents of the cloud."""

    def agents(self, caller: Caller, query: ListQuery) -> Sequence[dict[str, Any]]: ...

    def agent(self, caller: Caller, agent_id: str) -> dict[str, Any]: ...

    def delete_agent(self, caller: Caller, agent_id: str) -> None: ...


class UsageStore(Protocol):
    """Quotas and IP availability."""

    def quota_limits(self) -> Mapping[str, int]: ...

    def quota_details(self, caller: Caller, project_id: str) -> Mapping[str, Mapping[str, int]]: ...

    def ip_availabilities(self, caller: Caller, query: ListQuery) -> Sequence[dict[str, Any]]: ...

    def ip_availability(self, caller: Caller, network_id: str) -> dict[str, Any]: ...


class NetworkOperations(Resources, Tags, RouterActions, Agents, UsageStore, Protocol):
    """All operations of the network service."""
