"""The client of the watch and the reports (docs/design/watch.md), and of the calls of Neutron that agents use."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import msgspec
import requests
import structlog
from cachetools import LRUCache
from keystoneauth1.exceptions import ClientException
from keystoneauth1.identity.base import BaseIdentityPlugin
from keystoneauth1.session import Session

from openimds.client import decoders
from openimds.client.errors import ControlApiError, NoWatchError
from openimds.client.rest import RestCall, RestClient
from openimds.client.session import retry_login
from openimds.resources.network import Network, Port, Router, Subnet

_log = structlog.get_logger(__name__)

_POLL_GRACE_SECONDS = 10.0
"""The time after the end of a long poll after which its connection counts as lost."""

_ADMIN_ROLES = frozenset({"admin", "service"})
MAX_PAGES = 1000
"""The maximum number of pages of a list, for servers with a cyclic `next` link."""
MAX_CONSOLE_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All objects of some kinds at one revision."""

    revision: int
    objects: Mapping[str, Mapping[str, decoders.Resource]]
    """The objects by kind and id."""
    unreadable: frozenset[tuple[str, str]] = frozenset()
    """The (kind, id) of each object that could not be decoded."""
    store_id: str = ""
    """The identity of the database. Empty if the control API does not send it."""
    epoch: str = ""
    """The epoch of `revision`. Empty if the control API does not send it."""
    known_epoch: str = ""
    """The epoch of the known revision of the request."""


@dataclass(frozen=True, slots=True)
class Change:
    """The state of an object since `revision`. `object` is None if it was deleted."""

    revision: int
    kind: str
    id: str
    object: decoders.Resource | None


@dataclass(frozen=True, slots=True)
class Changes:
    """The changes after the requested revision, up to `revision`. A change whose object is malformed is left out."""

    revision: int
    changes: tuple[Change, ...]
    epoch: str = ""


class ControlClient:
    """Calls the control API. Thread-safe. Each method raises ControlApiError."""

    def __init__(self, session: Session, *, region: str | None = None) -> None:
        self._watch = RestClient(session, "instance-metadata", region=region)
        self._network = RestClient(session, "network", region=region, version="2.0")
        self._session = session
        self._has_admin_role: bool | None = None
        self._decoder = _ObjectDecoder()

    def forget_catalog(self) -> None:
        """Makes the next call fetch a new token, and with it the present catalog."""
        self._session.invalidate()

    def retry_login(self) -> None:
        """Ends the wait after a refused login, and reads the credentials again."""
        retry_login(self._session)

    # The watch ----------------------------------------------------------------------------------------------------

    def snapshot(self, kinds: Sequence[str], known_revision: int | None = None) -> Snapshot:
        """Fetches all objects of the kinds. Raises NoWatchError if the cloud has no watch.

        The response contains the epoch of `known_revision`, too.
        """
        query = {"kinds": ",".join(kinds), "known_revision": known_revision}
        try:
            content = self._watch.request(RestCall(method="GET", path="/snapshot", query=query))
        except ControlApiError as error:
            if error.status == 404:  # an auth plugin with one endpoint for all services, which is another service's
                raise NoWatchError(str(error)) from None
            raise
        with _decoding("the snapshot"):
            response = _SNAPSHOT.decode(content)
        unreadable: set[tuple[str, str]] = set()
        objects = {kind: self._decoded(kind, response.objects.get(kind, ()), unreadable) for kind in kinds}
        return Snapshot(
            response.revision,
            objects,
            frozenset(unreadable),
            response.store_id,
            response.epoch,
            response.known_epoch,
        )

    def changes(
        self, after: int, kinds: Sequence[str], timeout_seconds: float, store_id: str = "", epoch: str = ""
    ) -> Changes:
        """Waits up to `timeout_seconds` for changes. Raises RevisionGoneError if a new snapshot is needed.

        `store_id` is the one of the snapshot, and `epoch` the one of `after`. A change of the database requires a new
        snapshot.
        """
        query = {
            "after": after,
            "kinds": ",".join(kinds),
            "timeout": f"{timeout_seconds:g}",
            "store_id": store_id or None,
            "epoch": epoch or None,
        }
        content = self._watch.request(
            RestCall(method="GET", path="/changes", query=query, timeout_seconds=timeout_seconds + _POLL_GRACE_SECONDS)
        )
        with _decoding("the changes"):
            response = _CHANGES.decode(content)
        changes = (self._change(entry) for entry in response.changes)
        return Changes(response.revision, tuple(change for change in changes if change is not None), response.epoch)

    def port_provisioned(self, port_id: str, entity: str, binding_generation: int | None = None) -> None:
        """Reports that an entity of the port is in place: `dhcp` or `l2`."""
        body = {"entity": entity, **_binding_body(binding_generation)}
        self._watch.request_json(RestCall(method="POST", path=f"/ports/{_quoted(port_id)}/provisioned", body=body))

    def port_unplugged(self, port_id: str, binding_generation: int | None = None) -> None:
        body = _binding_body(binding_generation)
        self._watch.request_json(
            RestCall(method="POST", path=f"/ports/{_quoted(port_id)}/unplugged", body=body or None)
        )

    def report_server(
        self, server_id: str, *, boot_generation: int, power_state: str, fault: str | None = None
    ) -> None:
        """Reports the power state of a boot: `running`, `stopped` or `error`."""
        body = {"boot_generation": boot_generation, "power_state": power_state, "fault": fault}
        self._watch.request_json(RestCall(method="PUT", path=f"/servers/{_quoted(server_id)}/report", body=body))

    def put_console(self, server_id: str, text: str) -> None:
        """Uploads the last 256 KiB of a console."""
        tail = text.encode("utf-8", "replace")[-MAX_CONSOLE_BYTES:].decode("utf-8", "ignore").encode()
        self._watch.request_json(RestCall(method="PUT", path=f"/servers/{_quoted(server_id)}/console", body=tail))

    def send_heartbeat(
        self,
        binary: str,
        host: str,
        *,
        agent_type: str,
        started_at: datetime,
        configurations: Mapping[str, Any],
    ) -> None:
        """Sends a heartbeat of `binary`, such as `openimds-dhcp-agent`. A naive `started_at` is in UTC."""
        at = started_at.astimezone(UTC) if started_at.tzinfo else started_at.replace(tzinfo=UTC)
        body = {
            "agent_type": agent_type,
            "started_at": at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "configurations": dict(configurations),
        }
        self._watch.request_json(RestCall(method="PUT", path=f"/agents/{_quoted(binary)}/{_quoted(host)}", body=body))

    # Neutron's own calls ------------------------------------------------------------------------------------------

    def create_port(self, body: Mapping[str, Any]) -> Port:
        """Creates a port from a body without envelope: `{"network_id": …, "device_owner": "network:dhcp", …}`."""
        return self._port_call(RestCall(method="POST", path="/ports", body={"port": dict(body)}))

    def update_port(self, port_id: str, body: Mapping[str, Any]) -> Port:
        return self._port_call(RestCall(method="PUT", path=f"/ports/{_quoted(port_id)}", body={"port": dict(body)}))

    def delete_port(self, port_id: str) -> None:
        """Deletes a port. A port that does not exist is not an error."""
        try:
            self._network.request_json(RestCall(method="DELETE", path=f"/ports/{_quoted(port_id)}"))
        except ControlApiError as error:
            if error.status != 404:
                raise

    def list_ports(self, **filters: Any) -> list[Port]:
        """Lists ports by Neutron's filters: `network_id="…"`, `fixed_ips="ip_address=10.0.0.5"`. A list repeats a filter.

        With `limit` only the first page is fetched, which may be longer if the server ignores the limit.
        """
        return self._resources("port", "ports", filters)

    def warn_if_role_is_missing(self) -> None:
        """Logs a warning once if the roles of the agent's user limit Neutron's lists to one project. Raises nothing."""
        auth = self._session.auth
        if self._has_admin_role is not None or not isinstance(auth, BaseIdentityPlugin):
            return
        try:
            roles = auth.get_access(self._session).role_names or []
        except (ClientException, requests.RequestException):
            return  # the next call checks again
        self._has_admin_role = bool(_ADMIN_ROLES.intersection(role.lower() for role in roles))
        if not self._has_admin_role:
            _log.warning(
                "agent user without role admin or service",
                roles=sorted(roles),
                effect="Neutron lists only the ports of the user's own project; instances of other projects get 404",
            )

    def list_networks(self, **filters: Any) -> list[Network]:
        return self._resources("network", "networks", filters)

    def list_subnets(self, **filters: Any) -> list[Subnet]:
        return self._resources("subnet", "subnets", filters)

    def list_routers(self, **filters: Any) -> list[Router]:
        return self._resources("router", "routers", filters)

    def _resources(self, kind: str, collection: str, filters: Mapping[str, Any]) -> list[Any]:
        decoded = (self._decoder.decode(kind, body) for body in self._list(collection, filters))
        return [resource for resource in decoded if resource is not None]

    def _decoded(
        self, kind: str, bodies: Iterable[msgspec.Raw], unreadable: set[tuple[str, str]]
    ) -> dict[str, decoders.Resource]:
        """The decoded resources by id. Adds the (kind, id) of malformed objects to `unreadable`."""
        resources: dict[str, decoders.Resource] = {}
        for raw in bodies:
            body = _document(raw)
            resource = self._decoder.decode(kind, body)
            if resource is None:
                unreadable.add((kind, _id(body)))
            else:
                resources[resource.id] = resource
        return resources

    def _change(self, entry: _ChangeEntry) -> Change | None:
        """Decodes a change; None if its object is malformed."""
        if entry.object == _NULL:
            return Change(entry.revision, entry.kind, entry.id, None)
        resource = self._decoder.decode(entry.kind, _document(entry.object))
        return None if resource is None else Change(entry.revision, entry.kind, entry.id, resource)

    def _port_call(self, call: RestCall) -> Port:
        response = self._network.request_json(call)
        with _decoding("the port"):
            return decoders.port(response["port"])

    def _list(self, collection: str, filters: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """Fetches all pages of a list. Neutron with `pagination_max_limit` sends pages with a link to the next one."""
        bodies: list[Mapping[str, Any]] = []
        query: Mapping[str, Any] | None = filters
        pages = 0
        while query is not None:
            pages += 1
            if pages > MAX_PAGES:
                raise ControlApiError(f"the list of {collection} has more than {MAX_PAGES} pages")
            response = self._network.request_json(RestCall(method="GET", path=f"/{collection}", query=query))
            with _decoding(f"the list of {collection}"):
                page = list(response[collection])
                bodies += page
                has_more = bool(page) and "limit" not in filters
                query = _next_query(response.get(f"{collection}_links")) if has_more else None
        return bodies


class _Snapshot(msgspec.Struct):
    revision: int
    objects: dict[str, list[msgspec.Raw]]
    """The undecoded objects. All of them as dictionaries would need ten times the memory of the values."""
    store_id: str = ""
    epoch: str = ""
    known_epoch: str = ""


_SNAPSHOT = msgspec.json.Decoder(_Snapshot)


class _ChangeEntry(msgspec.Struct):
    revision: int
    kind: str
    id: str
    object: msgspec.Raw


class _Changes(msgspec.Struct):
    revision: int
    changes: list[_ChangeEntry]
    epoch: str = ""


_CHANGES = msgspec.json.Decoder(_Changes)
_DECODE = msgspec.json.Decoder().decode
_NULL = msgspec.Raw(b"null")
_MAX_LOGGED = 1000


class _ObjectDecoder:
    """Decodes objects one by one, so that one malformed object does not affect the others. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._logged: LRUCache[tuple[str, str], str] = LRUCache(_MAX_LOGGED)
        """The logged reason by (kind, id). A malformed object of repeated lists is logged once."""

    def decode(self, kind: str, body: Any) -> decoders.Resource | None:
        """Decodes an object. Returns None for a malformed object, and logs the reason."""
        try:
            return decoders.resource(kind, body)
        except decoders.ParseError as error:
            self._log(kind, _id(body), str(error))
            return None

    def _log(self, kind: str, object_id: str, reason: str) -> None:
        with self._lock:
            if self._logged.get((kind, object_id)) == reason:
                return
            self._logged[kind, object_id] = reason
        _log.warning("object decoding failed", kind=kind, id=object_id, reason=reason)


def _document(raw: msgspec.Raw) -> Any:
    """Decodes JSON. Returns None if the JSON is invalid, for example because of a lone surrogate."""
    try:
        return _DECODE(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _id(body: Any) -> str:
    return str(body.get("id", "")) if isinstance(body, Mapping) else ""


def _next_query(links: Any) -> Mapping[str, Any] | None:
    """The query of the link `{"rel": "next", "href": "http://…/ports?limit=2&marker=…"}`; None on the last page."""
    href = next((str(link["href"]) for link in links or () if link["rel"] == "next"), None)
    return None if href is None else parse_qs(urlsplit(href).query)


def _quoted(part: str) -> str:
    return quote(part, safe="")


def _binding_body(binding_generation: int | None) -> dict[str, int]:
    return {} if binding_generation is None else {"binding_generation": binding_generation}


@contextmanager
def _decoding(what: str) -> Iterator[None]:
    """Turns the errors of a malformed response into a ControlApiError."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, msgspec.MsgspecError, decoders.ParseError) as error:
        raise ControlApiError(f"{what} malformed: {error!r}") from error
