"""The outcome of a request: a Document, or an action with I/O that the metadata handler performs before it responds.

JSON has nova's format: one line, `, ` and `: ` as separators, characters beyond ASCII escaped.

ETag and If-None-Match follow RFC 9110 sections 8.8.3 and 13.1.2. Each response of meta_data.json has another random seed.
Its ETag is computed without the seed and is weak (`W/"…"`), because two responses with the same ETag are not equal byte
for byte. If-None-Match matches weak and strong ETags.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from http import HTTPStatus
from typing import Any

TEXT = "text/plain; charset=UTF-8"
JSON = "application/json"
HTML = "text/html; charset=UTF-8"

NOT_FOUND_SENTENCE = "The resource could not be found."
TRY_AGAIN_SENTENCE = "An unknown error has occurred. Please try your request again."
ETAG = "ETag"
_ENTITY_TAG = re.compile(r'(?:W/)?("[^"]*")')
_DIGITS = 32
"""Hexadecimal digits of SHA-256 that an ETag keeps: 128 bits, so collisions do not occur."""


@dataclass(frozen=True, slots=True)
class Document:
    """An HTTP response. HEAD has the same Document as GET; the HTTP server omits the body and keeps its length."""

    status: int
    content_type: str
    body: bytes = field(repr=False)
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class StorePassword:
    """The handler stores this text if the instance has no password, then responds with `password_stored()` or
    `password_refused()`.
    """

    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class FetchVendordata:
    """The handler queries the dynamic vendor data targets, then responds with `vendor_data2()`."""


Outcome = Document | StorePassword | FetchVendordata


class MetadataError(Exception):
    """An error response. `error_document` renders it."""

    def __init__(self, status: int, sentence: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(sentence)
        self.status = int(status)
        self.sentence = sentence
        self.headers = headers


def error_document(refusal: MetadataError, accept: str | None) -> Document:
    """`404 Not Found`, an empty line and the sentence, or JSON if the client accepts it.

    {"message": "The resource could not be found.", "code": "404 Not Found", "title": "Not Found"}
    """
    title = HTTPStatus(refusal.status).phrase
    code = f"{refusal.status} {title}"
    if wants_json(accept):
        document = {"message": refusal.sentence, "code": code, "title": title}
        return Document(refusal.status, JSON, json.dumps(document).encode(), refusal.headers)
    return Document(refusal.status, TEXT, f"{code}\n\n{refusal.sentence}\n".encode(), refusal.headers)


def wants_json(accept: str | None) -> bool:
    """Returns True if Accept names JSON. `*/*` does not count, because curl sends it and a sentence is easier to read."""
    ranges = [part.split(";") for part in (accept or "").lower().split(",")]
    return any(
        kind.strip() == JSON and not any(_is_zero_weight(parameter) for parameter in parameters)
        for kind, *parameters in ranges
    )


def not_found() -> MetadataError:
    """404. The text is the same for missing documents and for documents that the client may not see."""
    return MetadataError(HTTPStatus.NOT_FOUND, NOT_FOUND_SENTENCE)


def method_not_allowed(*allowed: str) -> MetadataError:
    listed = ", ".join(allowed)
    return MetadataError(HTTPStatus.METHOD_NOT_ALLOWED, f"Only {listed} can be used here.", (("Allow", listed),))


def _is_zero_weight(parameter: str) -> bool:
    name, _, value = parameter.partition("=")
    return name.strip() == "q" and value.strip() in ("0", "0.0", "0.00", "0.000")


def json_bytes(document: Mapping[str, Any]) -> bytes:
    r"""`{"a": "café"}` → `{"a": "caf\u00e9"}`"""
    return json.dumps(document).encode()


def strong_etag(body: bytes) -> tuple[str, str]:
    """The ETag header of a document with this body: `("ETag", '"0123…"')`."""
    return ETAG, f'"{sha256(body).hexdigest()[:_DIGITS]}"'


def weak_etag(stable: bytes) -> tuple[str, str]:
    """The ETag header of a document of which only the part `stable` is equal in all responses: `("ETag", 'W/"0123…"')`."""
    return ETAG, f"W/{strong_etag(stable)[1]}"


def with_etag(answer: Document) -> Document:
    """Adds an ETag to a 200 response that has none."""
    if answer.status != 200 or etag_of(answer) is not None:
        return answer
    return replace(answer, headers=(*answer.headers, strong_etag(answer.body)))


def etag_of(answer: Document) -> str | None:
    for name, value in answer.headers:
        if name == ETAG:
            return value
    return None


def not_modified_or(answer: Document, if_none_match: str | None) -> Document:
    """Returns 304 if If-None-Match names the document's ETag, else the document."""
    etag = etag_of(answer) if if_none_match else None
    if not if_none_match or etag is None or not _names(if_none_match, etag):
        return answer
    return replace(answer, status=HTTPStatus.NOT_MODIFIED, body=b"")


def _names(if_none_match: str, etag: str) -> bool:
    if if_none_match.strip() == "*":
        return True
    return etag.removeprefix("W/") in _ENTITY_TAG.findall(if_none_match)
