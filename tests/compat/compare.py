"""The comparison of a response with the expected one."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.compat.recordings import Case, Expected

RANDOM_SEED_BYTES = 512


@dataclass(frozen=True)
class Received:
    status: int
    headers: Mapping[str, str]
    """Header names are in lower case."""
    body: bytes


def mismatch(case: Case, expected: Expected, received: Received) -> str | None:
    """A line about the first difference. None if the response matches."""
    if received.status != expected.status:
        return f"{case}: {received.status} instead of {expected.status}: {received.body[:120]!r}"
    if received.status == 405 and "allow" not in received.headers:
        return f"{case}: 405 without Allow"
    if expected.content_type is not None and received.headers.get("content-type") != expected.content_type:
        return f"{case}: type {received.headers.get('content-type')!r} instead of {expected.content_type!r}"
    if expected.body is not None and not _same_body(expected, received.body):
        return f"{case}: body\n  {received.body[:2500]!r} instead of\n  {expected.body[:2500]!r}"
    return None


def _same_body(expected: Expected, body: bytes) -> bool:
    assert expected.body is not None
    if not expected.body.startswith(b"{"):
        return body == expected.body
    ours, theirs = json.loads(body), json.loads(expected.body)
    for name in expected.random_fields:
        if not _is_random(ours.pop(name)):
            return False
        theirs.pop(name)
    # The values and the order of the top-level keys are compared. The keys of `meta` are sorted in the import file.
    return bool(ours == theirs and list(ours) == list(theirs))


def _is_random(seed: Any) -> bool:
    return len(base64.b64decode(seed, validate=True)) == RANDOM_SEED_BYTES
