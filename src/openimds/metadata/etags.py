"""ETag and If-None-Match (RFC 9110 sections 8.8.3 and 13.1.2).

Each response of meta_data.json has another random seed. Its ETag is computed without the seed and is weak (`W/"…"`),
because two responses with the same ETag are not equal byte for byte. If-None-Match matches weak and strong ETags.
"""

from __future__ import annotations

import re
from dataclasses import replace
from hashlib import sha256
from http import HTTPStatus

from openimds.metadata.outcome import Document

ETAG = "ETag"
_ENTITY_TAG = re.compile(r'(?:W/)?("[^"]*")')
_DIGITS = 32
"""Hexadecimal digits of SHA-256 that an ETag keeps: 128 bits, so collisions do not occur."""


def strong_etag(body: bytes) -> tuple[str, str]:
    """The header of a document with these bytes: `("ETag", '"0123…"')`."""
    return ETAG, f'"{sha256(body).hexdigest()[:_DIGITS]}"'


def weak_etag(stable: bytes) -> tuple[str, str]:
    """The header of a document of which only the part `stable` is reproducible: `("ETag", 'W/"0123…"')`."""
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
