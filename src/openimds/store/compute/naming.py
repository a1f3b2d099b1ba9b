"""Names that a server gets: its own among several, its host name, its reservation."""

from __future__ import annotations

import re
import secrets
import string

HOSTNAME_MAX_CHARS = 63


def nth(name: str, index: int, count: int) -> str:
    """`web` alone; `web-1`, `web-2` … where several are made at once."""
    return name if count == 1 else f"{name}-{index + 1}"


def hostname_from(name: str, server_id: str) -> str:
    """`My web.1` → `my-web-1`, as Nova makes it; a name of which nothing is left gives `server-<id>`."""
    dashed = re.sub(r"[\s_.]", "-", name)
    plain = re.sub(r"[^\w-]+", "", dashed, flags=re.ASCII).lower()
    return plain[:HOSTNAME_MAX_CHARS].strip("-") or f"server-{server_id}"


def new_reservation_id() -> str:
    """`r-x1y2z3ab`"""
    alphabet = string.ascii_lowercase + string.digits
    return "r-" + "".join(secrets.choice(alphabet) for _ in range(8))
