r"""Text that JSON can carry and UTF-8 or a database cannot: lone surrogates and NUL.

Python's JSON decoder gives a str with a lone surrogate for `"\ud800"`. Such a str cannot be encoded as UTF-8, and
PostgreSQL refuses NUL in its text type.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

REPLACEMENT_CHARACTER = "\ufffd"

_SURROGATE = re.compile("[\ud800-\udfff]")
_MALFORMED = re.compile("[\x00\ud800-\udfff]")


def is_malformed(text: str) -> bool:
    """Returns True if the text contains a lone surrogate or a NUL character."""
    return _MALFORMED.search(text) is not None


def without_surrogates(document: Any) -> Any:
    """The JSON document with U+FFFD for each lone surrogate in its text."""
    if isinstance(document, str):
        return _SURROGATE.sub(REPLACEMENT_CHARACTER, document)
    if isinstance(document, Mapping):
        return {without_surrogates(key): without_surrogates(value) for key, value in document.items()}
    if isinstance(document, list):
        return [without_surrogates(value) for value in document]
    return document


def json_document(text: str) -> Any:
    """Decodes JSON, with U+FFFD for each lone surrogate."""
    document = json.loads(text)
    return without_surrogates(document) if "\\ud" in text or "\\uD" in text else document
