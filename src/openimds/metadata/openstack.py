"""The OpenStack tree, `/openstack/<version>/…`. Listings and lookups use the table DOCUMENTS."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from openimds.metadata.context import RenderContext
from openimds.metadata.devices import devices_document
from openimds.metadata.injected_files import FOLDER, content_files
from openimds.metadata.network_data import network_data
from openimds.metadata.outcome import (
    HTML,
    JSON,
    TEXT,
    Document,
    FetchVendordata,
    Outcome,
    json_bytes,
    not_found,
    weak_etag,
)
from openimds.metadata.paths import (
    FOLSOM,
    GRIZZLY,
    HAVANA,
    LIBERTY,
    NEWTON_ONE,
    NEWTON_TWO,
    OPENSTACK_VERSIONS,
    VICTORIA,
    openstack_listing,
    resolve,
)
from openimds.metadata.vendordata import vendor_data2

RANDOM_SEED = "random_seed"
RANDOM_SEED_BYTES = 512


def meta_data(context: RenderContext, version: str) -> dict[str, Any]:
    """The document in this version. `random_seed` is new at every call."""
    instance = context.instance
    document: dict[str, Any] = {"uuid": instance.id}
    if instance.metadata:
        document["meta"] = dict(instance.metadata)
    document |= _files(context) | _keys(context)
    document |= {
        "hostname": context.hostname,
        "name": instance.name,
        "launch_index": instance.launch_index,
        "availability_zone": instance.availability_zone,
    }
    if version >= GRIZZLY:
        document[RANDOM_SEED] = b64encode(context.random_bytes(RANDOM_SEED_BYTES)).decode()
    if version >= LIBERTY:
        document["project_id"] = instance.project_id
    if version >= NEWTON_ONE:
        document["devices"] = devices_document(instance.devices, version)
    if version >= VICTORIA:
        document["dedicated_cpus"] = sorted(instance.dedicated_cpus)
    return document


def _files(context: RenderContext) -> dict[str, Any]:
    files = content_files(context.instance)
    document: dict[str, Any] = {}
    injected = [{"path": file.path, "content_path": file.content_path} for file in files if file.path is not None]
    if injected:
        document["files"] = injected
    for file in files:
        if file.path is None:
            document["network_config"] = {"name": "network_config", "content_path": file.content_path}
    return document


def _keys(context: RenderContext) -> dict[str, Any]:
    key = context.instance.key
    if key is None or key.public_key is None:
        return {}
    return {
        "public_keys": {key.name: key.public_key},
        "keys": [{"name": key.name, "type": key.type, "data": key.public_key}],
    }


PASSWORD = "password"  # noqa: S105 - a document's name


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentSpec:
    """One row of the table: the document at `/openstack/<version>/<name>`."""

    name: str
    content_type: str
    listed_since: str | None
    """The first version whose listing shows the document. None if no listing shows it."""
    readable_since: str
    """The first version in which the document is readable. network_data.json is readable before it is listed, as in
    nova."""
    render: Callable[[RenderContext, str], Outcome]
    """(context, version) → outcome. Raises MetadataError if the instance does not have the document."""
    is_listed: Callable[[RenderContext], bool] = lambda _context: True


def _meta_data(context: RenderContext, version: str) -> Document:
    document = meta_data(context, version)
    stable = {name: value for name, value in document.items() if name != RANDOM_SEED}
    return Document(200, JSON, json_bytes(document), (weak_etag(json_bytes(stable)),))


def _user_data(context: RenderContext, _version: str) -> Document:
    if context.instance.user_data is None:
        raise not_found()
    return Document(200, TEXT, context.instance.user_data)


def _has_user_data(context: RenderContext) -> bool:
    return context.instance.user_data is not None


def _password(context: RenderContext, _version: str) -> Document:
    return Document(200, HTML, (context.instance.password or "").encode())


def _vendor_data(context: RenderContext, _version: str) -> Document:
    content = context.settings.static_vendor_data
    if content is None:
        raise not_found()
    return Document(200, JSON, json_bytes(content))


def _network_data(context: RenderContext, _version: str) -> Document:
    # The content is JSON, but nova has sent text/plain since 2015.
    return Document(200, TEXT, json_bytes(network_data(context.instance.nics)))


def _vendor_data2(context: RenderContext, _version: str) -> Outcome:
    return FetchVendordata() if context.settings.dynamic_vendor_data else vendor_data2(context.settings, {})


def _version(context: RenderContext, version: str) -> Document:
    return _listing(listed_documents(context, version))


DOCUMENTS = (
    DocumentSpec(
        name="meta_data.json", content_type=JSON, listed_since=FOLSOM, readable_since=FOLSOM, render=_meta_data
    ),
    DocumentSpec(
        name="user_data",
        content_type=TEXT,
        listed_since=FOLSOM,
        readable_since=FOLSOM,
        render=_user_data,
        is_listed=_has_user_data,
    ),
    DocumentSpec(name=PASSWORD, content_type=HTML, listed_since=GRIZZLY, readable_since=GRIZZLY, render=_password),
    DocumentSpec(
        name="vendor_data.json", content_type=JSON, listed_since=HAVANA, readable_since=HAVANA, render=_vendor_data
    ),
    DocumentSpec(
        name="network_data.json", content_type=TEXT, listed_since=LIBERTY, readable_since=FOLSOM, render=_network_data
    ),
    DocumentSpec(
        name="vendor_data2.json",
        content_type=JSON,
        listed_since=NEWTON_TWO,
        readable_since=NEWTON_TWO,
        render=_vendor_data2,
    ),
    DocumentSpec(name="version", content_type=TEXT, listed_since=None, readable_since=FOLSOM, render=_version),
)
"""All documents, in the order of listings."""

_BY_NAME = {document.name: document for document in DOCUMENTS}


def listed_documents(context: RenderContext, version: str) -> list[str]:
    """The names that the version's listing shows for this instance."""
    return [
        document.name
        for document in DOCUMENTS
        if document.listed_since is not None and version >= document.listed_since and document.is_listed(context)
    ]


def openstack_document(context: RenderContext, parts: tuple[str, ...]) -> Outcome:
    """The document at a path: (`latest`, `user_data`) → the user data. Raises MetadataError (404)."""
    if not parts:
        return _listing(openstack_listing(context.today))
    if parts[0] == FOLDER:
        return _content(context, parts[1:])
    version = resolve(parts[0], OPENSTACK_VERSIONS)
    document = _BY_NAME.get("/".join(parts[1:]) or "version")
    if version is None or document is None or version < document.readable_since:
        raise not_found()
    return document.render(context, version)


def is_password(parts: tuple[str, ...]) -> bool:
    """Returns True for the path of the password, the only document that the instance can write."""
    version = resolve(parts[0], OPENSTACK_VERSIONS) if parts else None
    return version is not None and parts[1:] == (PASSWORD,) and version >= _BY_NAME[PASSWORD].readable_since


def _content(context: RenderContext, parts: tuple[str, ...]) -> Document:
    for file in content_files(context.instance):
        if parts == (file.number,):
            return Document(200, TEXT, file.contents)
    raise not_found()


def _listing(names: Iterable[str]) -> Document:
    return Document(200, TEXT, "\n".join(names).encode())
