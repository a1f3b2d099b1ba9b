from __future__ import annotations

from openimds.metadata.outcome import json_bytes


def test_json_has_novas_format() -> None:
    assert json_bytes({"b": "café ☃", "a": [1, None]}) == b'{"b": "caf\\u00e9 \\u2603", "a": [1, null]}'
