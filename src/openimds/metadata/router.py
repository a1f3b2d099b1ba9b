"""The whole rule: from who asks what to what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from openimds.metadata.context import RenderContext
from openimds.metadata.ec2 import ec2_document
from openimds.metadata.openstack import is_password, openstack_document
from openimds.metadata.outcome import TEXT, Document, Outcome, method_not_allowed
from openimds.metadata.password import decide_password
from openimds.metadata.paths import OPENSTACK, Path
from openimds.metadata.versions import ec2_listing

_READ_METHODS = ("GET", "HEAD")


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentRequest:
    """What is asked, apart from by whom."""

    method: str
    path: Path
    body: bytes | None = field(default=b"", repr=False)
    """None when a request that may carry a body did not say how long it is."""


def route(request: DocumentRequest, reading: RenderContext) -> Outcome:
    """Raises Refusal: 404 for what is not there, then 405 for what cannot be done to it."""
    forbid_options(request.method)
    parts = request.path.parts
    if request.path.tree == OPENSTACK and is_password(parts):
        return decide_password(reading.instance, request.method, request.body)
    read = openstack_document if request.path.tree == OPENSTACK else ec2_document
    decision = read(reading, parts)
    _only_reads(request.method)
    return decision


def public_answer(method: str) -> Document:
    """`/`, which anybody may read. Raises Refusal (405)."""
    _only_reads(method)
    return Document(200, TEXT, "\n".join(ec2_listing()).encode())


def forbid_options(method: str) -> None:
    """OPTIONS is refused before anything is looked at: browsers' pre-flights have no business here. Raises Refusal."""
    if method == "OPTIONS":
        raise method_not_allowed(*_READ_METHODS)


def _only_reads(method: str) -> None:
    if method not in _READ_METHODS:
        raise method_not_allowed(*_READ_METHODS)
