"""EC2's short ids: a small number for each UUID, which no other object gets."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session

from openimds.store.models.compute import Ec2Id


def ec2_number(session: Session, kind: str, object_id: str) -> int | None:
    """The object's number. None if it has none."""
    return session.scalar(sa.select(Ec2Id.number).where(Ec2Id.kind == kind, Ec2Id.object_id == object_id))


def assign_ec2_number(session: Session, kind: str, object_id: str) -> int:
    """The object's number. An object without a number gets the next free one. Needs a write transaction."""
    number = ec2_number(session, kind, object_id)
    if number is not None:
        return number
    highest = session.scalar(sa.select(sa.func.max(Ec2Id.number)).where(Ec2Id.kind == kind)) or 0
    session.add(Ec2Id(kind=kind, number=highest + 1, object_id=object_id))
    session.flush()
    return highest + 1


def reserve_ec2_number(session: Session, kind: str, object_id: str, ec2_id: str | None) -> None:
    """Gives the object the number of an imported id (`i-0000002a`), unless the number is taken or the object has one."""
    digits = (ec2_id or "").rpartition("-")[2]
    try:
        number = int(digits, 16)
    except ValueError:
        return
    if ec2_number(session, kind, object_id) is None and session.get(Ec2Id, (kind, number)) is None:
        session.add(Ec2Id(kind=kind, number=number, object_id=object_id))
        session.flush()
