"""ETag and If-None-Match (RFC 9110 sections 8.8.3 and 13.1.2): a guest that looks again is told "not modified".

meta_data.json is different at every read by its random seed alone. Its ETag is made without the seed, and is a weak
one (`W/"…"`), as two answers that share it are not equal byte for byte. If-None-Match takes both kinds.
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
"""Of 64: enough that two documents never share them."""


def strong_etag(body: bytes) -> tuple[str, str]:
    """A header: `("ETag", '"0123…"')`"""
    return ETAG, f'"{sha256(body).hexdigest()[:_DIGITS]}"'


def weak_etag(stable: bytes) -> tuple[str, str]:
    """The same for a document of which only `stable` stays as it is: `("ETag", 'W/"0123…"')`"""
    return ETAG, f"W/{strong_etag(stable)[1]}"


def with_etag(answer: Document) -> Document:
    """The answer with an ETag, if it is a document and has none yet."""
    if answer.status != 200 or etag_of(answer) is not None:
        return answer
    return replace(answer, headers=(*answer.headers, strong_etag(answer.body)))


def etag_of(answer: Document) -> str | None:
    for name, value in answer.headers:
        if name == ETAG:
            return value
    return None


def not_modified_or(answer: Document, if_none_match: str | None) -> Document:
    """The answer, or 304 when the asker says that it has this very document."""
    etag = etag_of(answer) if if_none_match else None
    if not if_none_match or etag is None or not _names(if_none_match, etag):
        return answer
    return replace(answer, status=HTTPStatus.NOT_MODIFIED, body=b"")


def _names(if_none_match: str, etag: str) -> bool:
    if if_none_match.strip() == "*":
        return True
    return etag.removeprefix("W/") in _ENTITY_TAG.findall(if_none_match)
