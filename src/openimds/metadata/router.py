"""Dispatches a request to the document that it names."""

from __future__ import annotations

from dataclasses import dataclass, field

from openimds.metadata.context import RenderContext
from openimds.metadata.ec2 import ec2_document
from openimds.metadata.openstack import is_password, openstack_document
from openimds.metadata.outcome import TEXT, Document, Outcome, method_not_allowed
from openimds.metadata.password import handle_password
from openimds.metadata.paths import OPENSTACK, Path, ec2_listing

_READ_METHODS = ("GET", "HEAD")


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentRequest:
    """The part of an HTTP request that selects a document or writes one."""

    method: str
    path: Path
    body: bytes | None = field(default=b"", repr=False)
    """None if the request can have a body and has neither Content-Length nor chunks."""


def route(request: DocumentRequest, context: RenderContext) -> Outcome:
    """The outcome of a request by an identified instance. Raises MetadataError: 404 first, then 405."""
    forbid_options(request.method)
    parts = request.path.parts
    if request.path.tree == OPENSTACK and is_password(parts):
        return handle_password(context.instance, request.method, request.body)
    read = openstack_document if request.path.tree == OPENSTACK else ec2_document
    outcome = read(context, parts)
    _require_read_method(request.method)
    return outcome


def root_document(method: str) -> Document:
    """The document at `/`, which needs no identification. Raises MetadataError (405)."""
    _require_read_method(method)
    return Document(200, TEXT, "\n".join(ec2_listing()).encode())


def forbid_options(method: str) -> None:
    """Rejects OPTIONS before anything else, because browsers' pre-flight requests are not served. Raises MetadataError
    (405).
    """
    if method == "OPTIONS":
        raise method_not_allowed(*_READ_METHODS)


def _require_read_method(method: str) -> None:
    if method not in _READ_METHODS:
        raise method_not_allowed(*_READ_METHODS)
