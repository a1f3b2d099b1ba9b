"""JSON as nova writes it: one line, `, ` and `: ` between, everything beyond ASCII escaped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def json_bytes(document: Mapping[str, Any]) -> bytes:
    r"""`{"a": "café"}` → `{"a": "caf\u00e9"}`"""
    return json.dumps(document).encode()
