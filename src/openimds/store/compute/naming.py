"""Names that a server gets: its own among several, its host name, its reservation, its EC2 number."""

from __future__ import annotations

import re
import secrets
import string

import sqlalchemy as sa
from sqlalchemy.orm import Session

from openimds.store.models import Ec2Id

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


def ec2_number(session: Session, kind: str, object_id: str) -> int:
    """The number in the EC2 id of this instance or image: the same for ever, and never another's."""
    known = session.scalar(sa.select(Ec2Id.number).where(Ec2Id.kind == kind, Ec2Id.object_id == object_id))
    if known is not None:
        return known
    newest = session.scalar(sa.select(sa.func.max(Ec2Id.number)).where(Ec2Id.kind == kind)) or 0
    session.add(Ec2Id(kind=kind, number=newest + 1, object_id=object_id))
    session.flush()
    return newest + 1
