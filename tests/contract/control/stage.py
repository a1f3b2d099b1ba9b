"""A complete control API on a free port with its own store, and a compute agent that only reports."""

from __future__ import annotations

import atexit
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import prometheus_client
import requests
import uvicorn
from fastapi import FastAPI
from tests.databases import CHEAP_ROUNDS, migrated_store
from tests.waiting import HANG_SECONDS, until

from openimds.config import load_control_api
from openimds.http.sockets import tcp_listener
from openimds.programs.control_api import wiring
from openimds.store.bootstrap import bootstrap
from openimds.store.engine import Store, utc_now

ADMIN_PASSWORD = "the admin's"
SERVICE_PASSWORD = "the agents'"


@dataclass(frozen=True)
class Cloud:
    url: str
    store: Store
    state: Path
    reload: Callable[[], None]
    """Reloads the configuration, as SIGHUP does."""
    app: FastAPI

    def login(self, user: str = "admin", password: str = ADMIN_PASSWORD, project: str | None = "admin") -> Session:
        """A session of a user with a token."""
        answer = requests.post(
            f"{self.url}/v3/auth/tokens", json=password_login(user, password, project), timeout=HANG_SECONDS
        )
        assert answer.status_code == 201, answer.text
        return Session(self, answer.headers["X-Subject-Token"], answer.json()["token"])

    def member(self, name: str) -> Session:
        """Creates a user and a project of this name. Returns the user's session."""
        admin = self.login()
        project = admin.post("/v3/projects", {"project": {"name": name}})["project"]
        user = admin.post("/v3/users", {"user": {"name": name, "password": name}})["user"]
        role = admin.get("/v3/roles?name=member")["roles"][0]
        admin.call("PUT", f"/v3/projects/{project['id']}/users/{user['id']}/roles/{role['id']}")
        return self.login(name, name, name)


@dataclass(frozen=True)
class Session:
    cloud: Cloud
    token: str
    body: dict[str, Any]

    @property
    def project_id(self) -> str:
        return str(self.body["project"]["id"])

    @property
    def user_id(self) -> str:
        return str(self.body["user"]["id"])

    def call(
        self, method: str, path: str, body: Any = None, version: str | None = None, **more: Any
    ) -> requests.Response:
        headers = {"X-Auth-Token": self.token, **more.pop("headers", {})}
        if version is not None:
            headers["OpenStack-API-Version"] = f"compute {version}"
        if body is not None:
            more["json"] = body
        return requests.request(method, self.cloud.url + path, headers=headers, timeout=HANG_SECONDS, **more)

    def get(self, path: str, version: str | None = None) -> dict[str, Any]:
        return self._good(self.call("GET", path, version=version))

    def post(self, path: str, body: Any, version: str | None = None) -> dict[str, Any]:
        return self._good(self.call("POST", path, body, version))

    def put(self, path: str, body: Any, version: str | None = None) -> dict[str, Any]:
        return self._good(self.call("PUT", path, body, version))

    def refused(self, status: int, method: str, path: str, body: Any = None, version: str | None = None) -> str:
        """Sends a request that must fail with this status. Returns the error message."""
        answer = self.call(method, path, body, version)
        assert answer.status_code == status, (answer.status_code, answer.text)
        assert answer.headers["X-Openstack-Request-Id"].startswith("req-")
        return sentence(answer.json())

    def _good(self, answer: requests.Response) -> dict[str, Any]:
        assert answer.ok, (answer.status_code, answer.text)
        return dict(answer.json()) if answer.content else {}


class ComputeAgent:
    """The heartbeats and reports of a compute agent."""

    def __init__(self, cloud: Cloud, host: str = "node1", zone: str | None = None) -> None:
        self.host = host
        self._zone = zone
        self._api = cloud.login("nova", SERVICE_PASSWORD, "service")
        self.heartbeat()

    def heartbeat(self) -> None:
        body = {
            "agent_type": "Compute agent",
            "started_at": "2026-11-21T10:00:00Z",
            "configurations": {"availability_zone": self._zone} if self._zone else {},
        }
        answer = self._api.call("PUT", f"/openimds/v1/agents/openimds-compute-agent/{self.host}", body)
        assert answer.status_code == 204, answer.text

    def servers(self) -> dict[str, dict[str, Any]]:
        found = self._api.get("/openimds/v1/snapshot?kinds=server")["objects"]["server"]
        return {server["id"]: server for server in found if server["host"] == self.host}

    def report(self, server_id: str, power_state: str = "running", fault: str | None = None) -> None:
        """Reports on the newest boot generation."""
        self.report_generation(server_id, self.servers()[server_id]["boot_generation"], power_state, fault)

    def report_generation(
        self, server_id: str, generation: int, power_state: str = "running", fault: str | None = None
    ) -> None:
        body = {"boot_generation": generation, "power_state": power_state, "fault": fault}
        self._tell_of(server_id, "report", json=body)

    def console(self, server_id: str, text: str) -> None:
        self._tell_of(server_id, "console", data=text.encode(), headers={"Content-Type": "text/plain"})

    def _tell_of(self, server_id: str, what: str, **content: Any) -> None:
        answer = self._api.call("PUT", f"/openimds/v1/servers/{server_id}/{what}", **content)
        # A server can be deleted at any time, and then no report about it is expected.
        deleted = answer.status_code == 404 and server_id not in self.servers()
        assert answer.status_code == 204 or deleted, answer.text

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Sends heartbeats and reports the desired state of each server, until the block ends."""
        self.heartbeat()
        stop = threading.Event()

        def work() -> None:
            beaten = time.monotonic()
            while not stop.wait(0.05):
                if time.monotonic() - beaten > 1:  # or a slow client finds the host down (agent_down_time)
                    self.heartbeat()
                    beaten = time.monotonic()
                for server in self.servers().values():
                    wanted = server["wanted_power_state"]
                    self.report_generation(server["id"], server["boot_generation"], wanted)
                    self.console(server["id"], f"boot {server['boot_generation']}\nlogin:\n")

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


@contextmanager
def control_api(state: Path) -> Iterator[Cloud]:
    """Starts a control API with bootstrap's users, flavors and image. Stops it at the end of the block."""
    state.mkdir(exist_ok=True)
    listener = tcp_listener("127.0.0.1", 0)
    port = listener.getsockname()[1]
    (state / "nova.conf").write_text(f"[DEFAULT]\nstate_path = {state}\nhost = node1\n[control_api]\nport = {port}\n")
    config = load_control_api([str(state / "nova.conf")])
    store = _bootstrapped_store(state, config.images_dir)
    parts = wiring.build_parts(config, store, prometheus_client.CollectorRegistry(), CHEAP_ROUNDS)
    server = uvicorn.Server(
        uvicorn.Config(
            parts.app,
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_keep_alive=75,  # the client asks every 5 s, uvicorn's default would hang up just then
            timeout_graceful_shutdown=1,
        )
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        until(lambda: server.started)
        yield Cloud(f"http://127.0.0.1:{port}", store, state, parts.reload, parts.app)
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
        store.close()


def _bootstrapped_store(state: Path, images_dir: Path) -> Store:
    """A copy of a store with bootstrap's rows and image, which each test process makes once."""
    shutil.copytree(_template() / "images", images_dir)
    shutil.copy(_template() / "openimds.sqlite", state)
    return Store(f"sqlite:///{state}/openimds.sqlite")


@cache
def _template() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="openimds-template-"))
    atexit.register(shutil.rmtree, folder)
    store = migrated_store(folder)
    bootstrap(store, ADMIN_PASSWORD, SERVICE_PASSWORD, folder / "images", utc_now(), CHEAP_ROUNDS)
    store.close()
    return folder


def password_login(user: str, password: str, project: str | None = None) -> dict[str, Any]:
    who = {"name": user, "domain": {"name": "Default"}, "password": password}
    auth: dict[str, Any] = {"identity": {"methods": ["password"], "password": {"user": who}}}
    if project is not None:
        auth["scope"] = {"project": {"name": project, "domain": {"id": "default"}}}
    return {"auth": auth}


def sentence(error: dict[str, Any]) -> str:
    """The message of an error in the JSON of any service."""
    if "message" in error:
        return str(error["message"])
    (inner,) = error.values()
    return str(inner["message"])
