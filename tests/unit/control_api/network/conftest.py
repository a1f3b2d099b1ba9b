"""The network service over a real store, for a member, a member of another project, a reader, an operator and an agent."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from tests.databases import empty, migrated_store

from openimds.control_api import discovery
from openimds.control_api.app import ControlApiParts, build_app, network_router
from openimds.control_api.context import RequestContext
from openimds.control_api.watch import routes
from openimds.control_api.watch.long_poll import ChangeNotifier
from openimds.resources.errors import Unauthorized
from openimds.store.engine import Store
from openimds.store.network.network_store import NetworkStore
from openimds.store.watch_store import WatchStore

URL = "http://testserver"
ROLES = {"member": "member", "reader": "reader", "stranger": "member", "operator": "admin", "agent": "service"}
PROJECTS = {"reader": "member-project"}
"""Token → project, where the project is not `<token>-project`."""


class Names:
    """An authenticator whose tokens are the names in ROLES. The user has the same name."""

    def context(self, token: str, request_id: str) -> RequestContext:
        if token not in ROLES:
            raise Unauthorized("The token is unknown.")
        project_id = PROJECTS.get(token, f"{token}-project")
        return RequestContext(
            user_id=token, project_id=project_id, roles=frozenset({ROLES[token]}), request_id=request_id
        )


@dataclass
class Http:
    """Calls an application without a socket, one request at a time."""

    app: FastAPI
    runner: asyncio.Runner

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.runner.run(self._request(method, path, **options))

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    async def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url=URL) as client:
            return await client.request(method, path, **options)


@dataclass
class Person:
    """A client with a token."""

    http: Http
    token: str

    def call(self, method: str, path: str, body: Any = None, **options: Any) -> httpx.Response:
        headers = {"X-Auth-Token": self.token, **options.pop("headers", {})}
        return self.http.request(method, path, json=body, headers=headers, **options)

    def get(self, path: str, status: int = 200) -> Any:
        return self._json(self.call("GET", f"/network/v2.0{path}"), status)

    def post(self, path: str, body: Any, status: int = 201) -> Any:
        return self._json(self.call("POST", f"/network/v2.0{path}", body), status)

    def put(self, path: str, body: Any = None, status: int = 200) -> Any:
        return self._json(self.call("PUT", f"/network/v2.0{path}", body), status)

    def delete(self, path: str, status: int = 204) -> Any:
        return self._json(self.call("DELETE", f"/network/v2.0{path}"), status)

    def make(self, kind: str, **attributes: Any) -> Any:
        path = {"security_group": "security-groups"}.get(kind, f"{kind}s")
        return self.post(f"/{path}", {kind: attributes})[kind]

    @staticmethod
    def _json(answer: httpx.Response, status: int) -> Any:
        assert answer.status_code == status, answer.text
        return answer.json() if answer.content else None


@pytest.fixture(scope="module")
def module_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    made = migrated_store(tmp_path_factory.mktemp("store"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def app(module_store: Store) -> FastAPI:
    """One application for all tests of a module: FastAPI needs half a second to build it."""
    return control_app(module_store, ChangeNotifier(WatchStore(module_store)))


@pytest.fixture
def store(module_store: Store) -> Store:
    """The application's store, empty for each test."""
    empty(module_store)
    return module_store


@pytest.fixture
def http(app: FastAPI, store: Store) -> Iterator[Http]:
    with asyncio.Runner() as runner:
        yield Http(app, runner)


def control_app(store: Store, bell: ChangeNotifier) -> FastAPI:
    routers = (
        discovery.router(URL),
        network_router(NetworkStore(store)),
        routes.router(WatchStore(store), bell),
    )
    parts = ControlApiParts(
        authenticator=Names(), routers=routers, healthy=store.revision, registry=CollectorRegistry()
    )
    return build_app(parts)


@pytest.fixture
def member(http: Http) -> Person:
    return Person(http, "member")


@pytest.fixture
def reader(http: Http) -> Person:
    return Person(http, "reader")


@pytest.fixture
def stranger(http: Http) -> Person:
    return Person(http, "stranger")


@pytest.fixture
def operator(http: Http) -> Person:
    return Person(http, "operator")


@pytest.fixture
def agent(http: Http) -> Person:
    return Person(http, "agent")
