"""Does an answer match what is expected?"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.compat.recordings import Case, Expected

RANDOM_SEED_BYTES = 512


@dataclass(frozen=True)
class Got:
    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


def mismatch(case: Case, expected: Expected, got: Got) -> str | None:
    """A line about what does not match, None when all does."""
    if got.status != expected.status:
        return f"{case}: {got.status} instead of {expected.status}: {got.body[:120]!r}"
    if got.status == 405 and "allow" not in got.headers:
        return f"{case}: 405 without Allow"
    if expected.content_type is not None and got.headers.get("content-type") != expected.content_type:
        return f"{case}: type {got.headers.get('content-type')!r} instead of {expected.content_type!r}"
    if expected.body is not None and not _same_body(expected, got.body):
        return f"{case}: body\n  {got.body[:2500]!r} instead of\n  {expected.body[:2500]!r}"
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
    # By value, and with the keys in nova's order: but what the user gave (`meta`) came to us sorted.
    return bool(ours == theirs and list(ours) == list(theirs))


def _is_random(seed: Any) -> bool:
    return len(base64.b64decode(seed, validate=True)) == RANDOM_SEED_BYTES
