"""A control API in memory for tests: tokens, a catalog, the watch and Neutron's port calls.

    with FakeControl() as fake:
        fake.put("port", {"id": …})
        client = ControlClient(connect(fake.auth))

`fake.calls` contains the heartbeats and reports of agents. The contract tests run against the fake and the real control
API.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from openimds.resources.auth import AuthOptions

PASSWORD = "fake-password"  # noqa: S105 - the fake's


@dataclass(frozen=True, slots=True)
class AgentCall:
    """A call of an agent: its method, its path below the service's, and its body."""

    method: str
    path: str
    body: bytes

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.body.decode(errors='replace')}".rstrip()


@dataclass
class _State:
    objects: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    changes: list[tuple[int, str, str]] = field(default_factory=list)
    revision: int = 1
    store_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    floor: int = 0
    tokens: set[str] = field(default_factory=set)


class FakeControl:
    """Listens on a free port of 127.0.0.1 between enter and exit."""

    def __init__(self, *, watch: bool = True, port: int = 0) -> None:
        self.calls: list[AgentCall] = []
        self.lookups = 0
        """The number of port lists."""
        self.role = "service"
        """The role in the tokens."""
        self.logins = 0
        self.refused_logins = 0
        self.password = PASSWORD
        self.has_watch = watch
        """Whether the catalog of a new token has the watch."""
        self._state = _State()
        self._changed = threading.Condition()
        self._closing = False
        self._failing: int | None = None
        self._server = _Server(("127.0.0.1", port), self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def __str__(self) -> str:
        return "\n".join(str(call) for call in self.calls)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def auth(self) -> AuthOptions:
        return AuthOptions(auth_url=f"{self.url}/v3", username="agent", password=PASSWORD, project_name="service")

    def put(self, kind: str, body: Mapping[str, Any]) -> int:
        """Writes an object in the format of the watch. Returns the new revision."""
        with self._changed:
            self._state.objects.setdefault(kind, {})[body["id"]] = dict(body)
            return self._record_change(kind, body["id"])

    def delete(self, kind: str, object_id: str) -> int:
        with self._changed:
            self._state.objects.get(kind, {}).pop(object_id, None)
            return self._record_change(kind, object_id)

    def forget_changes(self) -> None:
        """Prunes the change log, so that a watch from an earlier revision gets 410."""
        with self._changed:
            self._state.revision += 1
            self._state.floor = self._state.revision
            self._state.changes.clear()
            self._changed.notify_all()

    def replace_store(self, revision: int = 1) -> None:
        """Replaces the database by an empty one."""
        with self._changed:
            self._state = _State(revision=revision, floor=revision, tokens=self._state.tokens)
            self._changed.notify_all()

    def restore_store(self, revision: int) -> None:
        """Restores the state before the objects that were written after `revision`."""
        with self._changed:
            lost = {(kind, name) for at, kind, name in self._state.changes if at > revision}
            for kind, name in lost:
                self._state.objects[kind].pop(name, None)
            self._state.revision = self._state.floor = revision
            self._state.changes.clear()
            self._changed.notify_all()

    def revoke_tokens(self) -> None:
        self._state.tokens.clear()

    def fail_with(self, status: int | None) -> None:
        """The status of the response to every call except logins. None if responses are normal."""
        with self._changed:
            self._failing = status
            self._changed.notify_all()

    def _record_change(self, kind: str, object_id: str) -> int:
        self._state.revision += 1
        self._state.changes.append((self._state.revision, kind, object_id))
        self._changed.notify_all()
        return self._state.revision

    # Responses: (status, body) --------------------------------------------------------------------------------------

    def response(self, request: _Handler, body: bytes) -> tuple[int, Any]:
        url = urlsplit(request.path)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        if url.path == "/v3/auth/tokens":
            return self._log_in(request, body)
        if url.path in ("/", "/v3", "/v3/", "/network", "/network/"):
            return 200, self._versions(url.path)
        if request.headers.get("X-Auth-Token") not in self._state.tokens:
            return 401, {"error": {"code": 401, "message": "The request you have made requires authentication."}}
        if self._failing is not None:
            return self._failing, {"error": {"message": "fail_with"}}
        if url.path.startswith("/openimds/v1/") and self.has_watch:
            return self._watch_call(request.command, url.path.removeprefix("/openimds/v1"), query, body)
        if url.path.startswith("/network/v2.0/ports"):
            return self._port_call(request.command, url.path.removeprefix("/network/v2.0"), url.query, body)
        return 404, {"message": f"the fake has no {url.path}"}

    def _log_in(self, request: _Handler, body: bytes) -> tuple[int, Any]:
        password = json.loads(body)["auth"]["identity"]["password"]["user"]["password"]
        if password != self.password:
            self.refused_logins += 1
            return 401, {"error": {"code": 401, "message": "The request you have made requires authentication."}}
        self.logins += 1
        token = f"fake-{uuid.uuid4().hex}"
        self._state.tokens.add(token)
        request.extra_headers = {"X-Subject-Token": token}
        expires = datetime.now(UTC) + timedelta(hours=1)
        return 201, {"token": {"expires_at": expires.strftime("%Y-%m-%dT%H:%M:%S.%fZ"), **self._token()}}

    def _token(self) -> dict[str, Any]:
        domain = {"id": "default", "name": "Default"}
        paths = {"identity": "/v3", "network": "/network"} | (
            {"instance-metadata": "/openimds/v1"} if self.has_watch else {}
        )
        return {
            "user": {"id": "u", "name": "agent", "domain": domain},
            "project": {"id": "p", "name": "service", "domain": domain},
            "roles": [{"id": "r", "name": self.role}],
            "methods": ["password"],
            "issued_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "catalog": [
                {
                    "type": kind,
                    "name": kind,
                    "id": kind,
                    "endpoints": [
                        {
                            "id": kind,
                            "interface": "public",
                            "region": "RegionOne",
                            "region_id": "RegionOne",
                            "url": self.url + path,
                        }
                    ],
                }
                for kind, path in paths.items()
            ],
        }

    def _versions(self, path: str) -> Any:
        if path.startswith("/network"):
            link = {"rel": "self", "href": f"{self.url}/network/v2.0/"}
            return {"versions": [{"id": "v2.0", "status": "CURRENT", "links": [link]}]}
        link = {"rel": "self", "href": f"{self.url}/v3/"}
        version = {"id": "v3.14", "status": "stable", "links": [link]}
        return {"version": version} if path.startswith("/v3") else {"versions": {"values": [version]}}

    def _watch_call(self, method: str, path: str, query: dict[str, str], body: bytes) -> tuple[int, Any]:
        kinds = query.get("kinds", "").split(",")
        if path == "/snapshot":
            with self._changed:
                objects = {kind: list(self._state.objects.get(kind, {}).values()) for kind in kinds}
                state = self._state
                return 200, {"store_id": state.store_id, "revision": state.revision, "objects": objects}
        if path == "/changes":
            if query.get("store_id", self._state.store_id) != self._state.store_id:
                return 410, {"message": "list again"}
            return self._changes(int(query["after"]), kinds, float(query.get("timeout", "0")))
        if path.split("/")[1] not in {"ports", "servers", "agents"}:
            return 404, {"message": f"the fake has no {path}"}  # tests of records use the real control API
        self.calls.append(AgentCall(method, path, body))
        return 204, None

    def _changes(self, after: int, kinds: list[str], timeout: float) -> tuple[int, Any]:
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._failing or self._has_changes(after, kinds), timeout)
            if self._failing:
                return self._failing, {"error": {"message": "fail_with"}}
            if not self._state.floor <= after <= self._state.revision:
                return 410, {"message": "list again"}
            newest = {
                (kind, name): revision
                for revision, kind, name in self._state.changes
                if revision > after and kind in kinds
            }
            entries = [
                {"revision": revision, "kind": kind, "id": name, "object": self._state.objects[kind].get(name)}
                for (kind, name), revision in sorted(newest.items(), key=lambda item: item[1])
            ]
            return 200, {"revision": self._state.revision, "changes": entries}

    def _has_changes(self, after: int, kinds: list[str]) -> bool:
        gone = not self._state.floor <= after <= self._state.revision
        return gone or any(revision > after and kind in kinds for revision, kind, _ in self._state.changes)

    def _port_call(self, method: str, path: str, query: str, body: bytes) -> tuple[int, Any]:
        if method == "GET":
            self.lookups += 1
            ports = list(self._state.objects.get("port", {}).values())
            return 200, {"ports": [port for port in ports if _passes(port, parse_qs(query))]}
        self.calls.append(AgentCall(method, path, body))
        port_id = path.removeprefix("/ports").strip("/") or str(uuid.uuid4())
        if method == "DELETE":
            exists = port_id in self._state.objects.get("port", {})
            self.delete("port", port_id)
            return (
                (204, None) if exists else (404, {"NeutronError": {"message": f"Port {port_id} could not be found."}})
            )
        base = self._state.objects.get("port", {}).get(port_id, {"mac_address": "fa:16:3e:00:00:01", "fixed_ips": []})
        port = base | {"id": port_id} | json.loads(body)["port"]
        self.put("port", port)
        return (201 if method == "POST" else 200), {"port": port}


def _passes(port: Mapping[str, Any], filters: Mapping[str, list[str]]) -> bool:
    for name, values in filters.items():
        if name == "fixed_ips":
            addresses = {value.removeprefix("ip_address=") for value in values}
            if not addresses & {fixed["ip_address"] for fixed in port.get("fixed_ips", [])}:
                return False
        elif str(port.get(name, "")) not in values:
            return False
    return True


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], fake: FakeControl) -> None:
        self.fake = fake
        super().__init__(address, _Handler)

    def handle_error(self, _request: object, _address: object) -> None:
        """Ignores clients that disconnect during a long poll."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    extra_headers: Mapping[str, str] = {}
    disable_nagle_algorithm = True

    def _do(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.extra_headers = {}
        status, response = self.server.fake.response(self, body)
        data = b"" if response is None else json.dumps(response).encode()
        self.send_response(status)
        for name, value in self.extra_headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_DELETE = _do  # noqa: N815 - the library's names

    def log_message(self, *_arguments: Any) -> None:
        """Logs nothing."""
