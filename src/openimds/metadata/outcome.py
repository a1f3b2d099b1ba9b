"""What becomes of a request: an answer, or one thing that an edge must do first.

JSON as nova writes it: one line, `, ` and `: ` between, everything beyond ASCII escaped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

TEXT = "text/plain; charset=UTF-8"
JSON = "application/json"
HTML = "text/html; charset=UTF-8"

NOT_FOUND_SENTENCE = "The resource could not be found."
TRY_AGAIN_SENTENCE = "An unknown error has occurred. Please try your request again."


@dataclass(frozen=True, slots=True)
class Document:
    """An HTTP answer. For HEAD it is the one of GET: whoever writes it leaves the body out and keeps its length."""

    status: int
    content_type: str
    body: bytes = field(repr=False)
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class StorePassword:
    """Store this text as the instance's password if it has none, then answer `password_stored()` or `_refused()`."""

    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class AskVendors:
    """Ask the dynamic vendor data targets, then answer `vendor_data2()` with what they said."""


Outcome = Document | StorePassword | AskVendors


class MetadataError(Exception):
    """Ends a request with an error. Raised by rules, turned into an answer in one place: `refusal_answer`."""

    def __init__(self, status: int, sentence: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(sentence)
        self.status = int(status)
        self.sentence = sentence
        self.headers = headers


def error_document(refusal: MetadataError, accept: str | None) -> Document:
    """`404 Not Found`, an empty line and the sentence; as JSON when that is what the client asks for.

    {"message": "The resource could not be found.", "code": "404 Not Found", "title": "Not Found"}
    """
    title = HTTPStatus(refusal.status).phrase
    code = f"{refusal.status} {title}"
    if wants_json(accept):
        document = {"message": refusal.sentence, "code": code, "title": title}
        return Document(refusal.status, JSON, json.dumps(document).encode(), refusal.headers)
    return Document(refusal.status, TEXT, f"{code}\n\n{refusal.sentence}\n".encode(), refusal.headers)


def wants_json(accept: str | None) -> bool:
    """Does Accept name JSON? `*/*` does not: a shell user is better served with a sentence."""
    ranges = [part.split(";") for part in (accept or "").lower().split(",")]
    return any(
        kind.strip() == JSON and not any(_is_zero_weight(parameter) for parameter in parameters)
        for kind, *parameters in ranges
    )


def not_found() -> MetadataError:
    """The same words for everything that is not there, or not for this asker to see."""
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
