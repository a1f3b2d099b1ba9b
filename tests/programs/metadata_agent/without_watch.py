"""The control API disguised as a real OpenStack: no watch in the catalog, expiring tokens, a failing Neutron."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from tests.waiting import HANG_SECONDS


class Door(ThreadingHTTPServer):
    """Forwards requests to the control API at `behind`, except for the faults that a test sets."""

    daemon_threads = True

    def __init__(self, behind: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = behind
        self.neutron_status: int | None = None
        """Status of each response of Neutron. None if Neutron works."""
        self.tokens: set[str] = set()
        self.ended: set[str] = set()
        self.lookups = 0
        self.refused_logins = 0
        self.page_size = 0
        """Size of a page of ports. 0 if lists are not paged."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def end_tokens(self) -> None:
        """Rejects all tokens that were issued so far."""
        self.ended |= self.tokens


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Door

    def _do(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, headers, answer = self._answered(body)
        self.send_response(status)
        for name, value in headers:
            if name.lower() in ("content-type", "x-subject-token", "location"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def _answered(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        door = self.server
        is_neutron = self.path.startswith("/network/v2.0/")
        door.lookups += is_neutron and self.command == "GET"
        if self.headers.get("X-Auth-Token") in door.ended:
            return 401, [], b'{"error": {"code": 401, "message": "The token has expired."}}'
        if is_neutron and door.neutron_status is not None:
            return door.neutron_status, [], b'{"NeutronError": {"message": "told to fail"}}'
        status, headers, answer = self._passed_on(body)
        door.refused_logins += self.path.endswith("/auth/tokens") and status == 401
        door.tokens |= {value for name, value in headers if name.lower() == "x-subject-token"}
        answer = answer.replace(door.behind.encode(), door.url.encode())
        if door.page_size and self.command == "GET" and urlsplit(self.path).path == "/network/v2.0/ports":
            return status, headers, self._page(json.loads(answer)["ports"])
        return status, headers, _without_watch(answer)

    def _page(self, ports: list[dict[str, Any]]) -> bytes:
        """Pages a list as Neutron does: sorted by id, with a marker and a link to the next page."""
        size, query = self.server.page_size, parse_qs(urlsplit(self.path).query)
        (marker,) = query.pop("marker", [""])
        rest = sorted((port for port in ports if port["id"] > marker), key=lambda port: str(port["id"]))
        body: dict[str, Any] = {"ports": rest[:size]}
        if rest[size:]:
            following = urlencode(query | {"marker": [rest[size - 1]["id"]]}, doseq=True)
            body["ports_links"] = [{"rel": "next", "href": f"{self.server.url}/network/v2.0/ports?{following}"}]
        return json.dumps(body).encode()

    def _passed_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(urlsplit(self.server.behind).netloc, timeout=HANG_SECONDS)
        try:
            kept = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
            url = urlsplit(self.path)
            query = urlencode({k: v for k, v in parse_qs(url.query).items() if k != "marker"}, doseq=True)
            connection.request(self.command, f"{url.path}?{query}" if query else url.path, body or None, kept)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    do_GET = do_POST = do_PUT = do_DELETE = _do  # noqa: N815 - the library's names

    def log_message(self, *_arguments: Any) -> None:
        """Suppresses the access log."""


def _without_watch(answer: bytes) -> bytes:
    try:
        body = json.loads(answer)
        catalog = body["token"]["catalog"]
    except (ValueError, KeyError, TypeError):
        return answer
    body["token"]["catalog"] = [service for service in catalog if service["type"] != "instance-metadata"]
    return json.dumps(body).encode()


@contextmanager
def door_to(behind: str) -> Iterator[Door]:
    door = Door(behind)
    thread = Thread(target=door.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield door
    finally:
        door.shutdown()
        door.server_close()
        thread.join()
