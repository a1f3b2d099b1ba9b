"""What a dynamic vendor data target says of an instance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class VendorAnswer:
    content: Any
    """The JSON value; None: it answered without a body."""
    size_bytes: int = 0
    """As it was sent."""
    fresh_seconds: float = 0
    """So long it may be told again without asking; 0: not at all."""
