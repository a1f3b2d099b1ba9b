"""The control API as agents use it: docs/design/watch.md, and the few calls of Neutron's that agents make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import msgspec
import requests
import structlog
from keystoneauth1.exceptions import ClientException
from keystoneauth1.identity.base import BaseIdentityPlugin
from keystoneauth1.session import Session

from openimds.client import decoders
from openimds.client.errors import ControlApiError
from openimds.client.rest import RestCall, RestClient
from openimds.resources.network import Network, Port, Router, Subnet

_log = structlog.get_logger(__name__)

_POLL_GRACE_SECONDS = 10.0
"""Beyond the time a long poll was asked to wait: then its connection counts as lost."""

_SEEING_ROLES = frozenset({"admin", "service"})
MAX_PAGES = 1000
"""Of a list. A server that leads in a circle is not followed for ever."""
MAX_CONSOLE_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All objects of some kinds at one revision."""

    revision: int
    objects: Mapping[str, Mapping[str, decoders.Resource]]
    """By kind, by id."""
    unreadable: frozenset[tuple[str, str]] = frozenset()
    """(kind, id) of the objects that the control API sent and this client could not decode."""


@dataclass(frozen=True, slots=True)
class Change:
    """What an object is since `revision`; None: it is no more."""

    revision: int
    kind: str
    id: str
    object: decoders.Resource | None


@dataclass(frozen=True, slots=True)
class Changes:
    """Everything after the revision that was asked for, up to `revision`. A change whose object cannot be decoded is left
    out.
    """

    revision: int
    changes: tuple[Change, ...]


class ControlClient:
    """Threads may share it. Every method raises ControlApiError."""

    def __init__(self, session: Session, *, region: str | None = None) -> None:
        self._watch = RestClient(session, "instance-metadata", region=region)
        self._network = RestClient(session, "network", region=region, version="2.0")
        self._session = session
        self._sees_enough: bool | None = None
        self._decoder = _ObjectDecoder()

    # The watch ----------------------------------------------------------------------------------------------------

    def snapshot(self, kinds: Sequence[str]) -> Snapshot:
        """Raises NoWatchError when the cloud has no watch."""
        content = self._watch.request(RestCall(method="GET", path="/snapshot", query={"kinds": ",".join(kinds)}))
        with _readable("the snapshot"):
            answer = _SNAPSHOT.decode(content)
        unreadable: set[tuple[str, str]] = set()
        objects = {kind: self._decoded(kind, answer.objects.get(kind, ()), unreadable) for kind in kinds}
        return Snapshot(answer.revision, objects, frozenset(unreadable))

    def changes(self, after: int, kinds: Sequence[str], timeout_seconds: float) -> Changes:
        """Waits up to `timeout_seconds` for a change. Raises RevisionGoneError when a snapshot is due."""
        query = {"after": after, "kinds": ",".join(kinds), "timeout": f"{timeout_seconds:g}"}
        content = self._watch.request(
            RestCall(method="GET", path="/changes", query=query, timeout_seconds=timeout_seconds + _POLL_GRACE_SECONDS)
        )
        with _readable("the changes"):
            answer = _CHANGES.decode(content)
        found = (self._change(entry) for entry in answer.changes)
        return Changes(answer.revision, tuple(change for change in found if change is not None))

    def port_provisioned(self, port_id: str, entity: str, binding_generation: int | None = None) -> None:
        """`entity`: `dhcp` or `l2`, the part of the port that is in place."""
        body = {"entity": entity, **_about(binding_generation)}
        self._watch.request_json(RestCall(method="POST", path=f"/ports/{_safe(port_id)}/provisioned", body=body))

    def port_unplugged(self, port_id: str, binding_generation: int | None = None) -> None:
        body = _about(binding_generation)
        self._watch.request_json(RestCall(method="POST", path=f"/ports/{_safe(port_id)}/unplugged", body=body or None))

    def report_server(
        self, server_id: str, *, boot_generation: int, power_state: str, fault: str | None = None
    ) -> None:
        """`power_state`: `running`, `stopped` or `error`."""
        body = {"boot_generation": boot_generation, "power_state": power_state, "fault": fault}
        self._watch.request_json(RestCall(method="PUT", path=f"/servers/{_safe(server_id)}/report", body=body))

    def put_console(self, server_id: str, text: str) -> None:
        """The console's tail; what is beyond 256 KiB of it is cut from the front."""
        tail = text.encode("utf-8", "replace")[-MAX_CONSOLE_BYTES:].decode("utf-8", "ignore").encode()
        self._watch.request_json(RestCall(method="PUT", path=f"/servers/{_safe(server_id)}/console", body=tail))

    def send_heartbeat(
        self,
        binary: str,
        host: str,
        *,
        agent_type: str,
        started_at: datetime,
        configurations: Mapping[str, Any],
    ) -> None:
        """`binary`: `openimds-dhcp-agent`; `started_at` with or without a zone (then UTC)."""
        at = started_at.astimezone(UTC) if started_at.tzinfo else started_at.replace(tzinfo=UTC)
        body = {
            "agent_type": agent_type,
            "started_at": at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "configurations": dict(configurations),
        }
        self._watch.request_json(RestCall(method="PUT", path=f"/agents/{_safe(binary)}/{_safe(host)}", body=body))

    # Neutron's own calls ------------------------------------------------------------------------------------------

    def create_port(self, body: Mapping[str, Any]) -> Port:
        """`body` without envelope: `{"network_id": …, "device_owner": "network:dhcp", …}`."""
        return self._one_port(RestCall(method="POST", path="/ports", body={"port": dict(body)}))

    def update_port(self, port_id: str, body: Mapping[str, Any]) -> Port:
        return self._one_port(RestCall(method="PUT", path=f"/ports/{_safe(port_id)}", body={"port": dict(body)}))

    def delete_port(self, port_id: str) -> None:
        """A port that is gone already is deleted."""
        try:
            self._network.request_json(RestCall(method="DELETE", path=f"/ports/{_safe(port_id)}"))
        except ControlApiError as error:
            if error.status != 404:
                raise

    def list_ports(self, **filters: Any) -> list[Port]:
        """Neutron's filters: `network_id="…"`, `device_id="…"`, `fixed_ips="ip_address=10.0.0.5"`; lists repeat."""
        return self._resources("port", "ports", filters)

    def warn_if_role_is_missing(self) -> None:
        """Says, once, when our user's roles let Neutron show it no other project's ports. Raises nothing."""
        auth = self._session.auth
        if self._sees_enough is not None or not isinstance(auth, BaseIdentityPlugin):
            return
        try:
            roles = auth.get_access(self._session).role_names or []
        except (ClientException, requests.RequestException):
            return  # asked again at the next look
        self._sees_enough = bool(_SEEING_ROLES.intersection(role.lower() for role in roles))
        if not self._sees_enough:
            _log.warning(
                "the agent's user has neither the role admin nor service: Neutron shows it its own project's ports only,"
                " and guests of other projects get 404; give it one of them",
                roles=sorted(roles),
            )

    def list_networks(self, **filters: Any) -> list[Network]:
        return self._resources("network", "networks", filters)

    def list_subnets(self, **filters: Any) -> list[Subnet]:
        return self._resources("subnet", "subnets", filters)

    def list_routers(self, **filters: Any) -> list[Router]:
        return self._resources("router", "routers", filters)

    def _resources(self, kind: str, collection: str, filters: Mapping[str, Any]) -> list[Any]:
        decoded = (self._decoder.decode(kind, body) for body in self._listed(collection, filters))
        return [resource for resource in decoded if resource is not None]

    def _decoded(
        self, kind: str, bodies: Iterable[msgspec.Raw], unreadable: set[tuple[str, str]]
    ) -> dict[str, decoders.Resource]:
        """Resources by id. The keys of the objects that cannot be decoded are added to `unreadable`."""
        found: dict[str, decoders.Resource] = {}
        for raw in bodies:
            body = _document(raw)
            resource = self._decoder.decode(kind, body)
            if resource is None:
                unreadable.add((kind, _id(body)))
            else:
                found[resource.id] = resource
        return found

    def _change(self, entry: _ChangeEntry) -> Change | None:
        """None if the object cannot be decoded."""
        if entry.object == _NULL:
            return Change(entry.revision, entry.kind, entry.id, None)
        resource = self._decoder.decode(entry.kind, _document(entry.object))
        return None if resource is None else Change(entry.revision, entry.kind, entry.id, resource)

    def _one_port(self, call: RestCall) -> Port:
        answer = self._network.request_json(call)
        with _readable("the port"):
            return decoders.port(answer["port"])

    def _listed(self, collection: str, filters: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """All of it: a Neutron with `pagination_max_limit` gives pages, each with a link to the next."""
        found: list[Mapping[str, Any]] = []
        query: Mapping[str, Any] | None = filters
        pages = 0
        while query is not None:
            pages += 1
            if pages > MAX_PAGES:
                raise ControlApiError(f"the list of {collection} goes on after {MAX_PAGES} pages: it is not followed")
            answer = self._network.request_json(RestCall(method="GET", path=f"/{collection}", query=query))
            with _readable(f"the list of {collection}"):
                page = list(answer[collection])
                found += page
                query = _next_query(answer.get(f"{collection}_links")) if page else None
        return found


class _Snapshot(msgspec.Struct):
    revision: int
    objects: dict[str, list[msgspec.Raw]]
    """Read one by one: all of them as dictionaries would take ten times the memory of what is made of them."""


_SNAPSHOT = msgspec.json.Decoder(_Snapshot)


class _ChangeEntry(msgspec.Struct):
    revision: int
    kind: str
    id: str
    object: msgspec.Raw


class _Changes(msgspec.Struct):
    revision: int
    changes: list[_ChangeEntry]


_CHANGES = msgspec.json.Decoder(_Changes)
_DECODE = msgspec.json.Decoder().decode
_NULL = msgspec.Raw(b"null")
_MAX_LOGGED = 1000


class _ObjectDecoder:
    """Decodes objects one by one, so that one malformed object does not hide all others. Threads may share it."""

    def __init__(self) -> None:
        self._logged: dict[tuple[str, str], str] = {}
        """(kind, id) → the reason in the log. Lists repeat an object, and the log has it once."""

    def decode(self, kind: str, body: Any) -> decoders.Resource | None:
        """None if the object cannot be decoded. The log names it and the reason."""
        try:
            return decoders.resource(kind, body)
        except decoders.ParseError as error:
            self._log(kind, _id(body), str(error))
            return None

    def _log(self, kind: str, object_id: str, reason: str) -> None:
        if self._logged.get((kind, object_id)) == reason:
            return
        if len(self._logged) >= _MAX_LOGGED:
            self._logged.clear()
        self._logged[kind, object_id] = reason
        _log.warning("object decoding failed", kind=kind, id=object_id, reason=reason)


def _document(raw: msgspec.Raw) -> Any:
    """None if the JSON itself cannot be decoded, such as one with a lone surrogate."""
    try:
        return _DECODE(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _id(body: Any) -> str:
    return str(body.get("id", "")) if isinstance(body, Mapping) else ""


def _next_query(links: Any) -> Mapping[str, Any] | None:
    """`[{"rel": "next", "href": "http://…/ports?limit=2&marker=…"}]` → its query; None on the last page."""
    href = next((str(link["href"]) for link in links or () if link["rel"] == "next"), None)
    return None if href is None else parse_qs(urlsplit(href).query)


def _safe(part: str) -> str:
    return quote(part, safe="")


def _about(binding_generation: int | None) -> dict[str, int]:
    return {} if binding_generation is None else {"binding_generation": binding_generation}


class _readable:  # noqa: N801 - reads as a block's name
    """Turns what can be wrong with an answer's shape into a ControlApiError."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(
            error, (KeyError, TypeError, ValueError, AttributeError, msgspec.MsgspecError, decoders.ParseError)
        ):
            raise ControlApiError(f"{self._what} cannot be read: {error!r}") from error
