"""How long an answer may be kept, as its sender says (RFC 9111, section 5.2.2)."""

from __future__ import annotations

import re

LONGEST_SECONDS = 24 * 3600

_DIRECTIVE = re.compile(r"""([a-z0-9-]+)(?:\s*=\s*(?:"([^"]*)"|([^\s,"]*)))?""", re.IGNORECASE)


def fresh_seconds(cache_control: str | None, age: str | None = None) -> float:
    """`max-age=60` → 60; 0 without a word, and whenever in doubt. What an answer spent in caches on its way (`Age`) counts.

    Kept for one instance alone, so `private` is no hindrance and `s-maxage`, which speaks to shared caches, says nothing.
    """
    said = {name.lower(): quoted or plain for name, quoted, plain in _DIRECTIVE.findall(cache_control or "")}
    if "no-store" in said or "no-cache" in said:
        return 0
    seconds, spent = _seconds(said.get("max-age")), _seconds(age) or 0
    return 0 if seconds is None else float(min(max(0, seconds - spent), LONGEST_SECONDS))


def _seconds(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"[0-9]{1,10}", text) else None
