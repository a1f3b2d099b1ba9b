"""EC2's short ids: a small number for each UUID, which no other object gets."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from openimds.store.models.compute import Ec2Id


def ec2_number(session: Session, kind: str, object_id: str) -> int | None:
    """The object's number. None if it has none."""
    return session.scalar(sa.select(Ec2Id.number).where(Ec2Id.kind == kind, Ec2Id.object_id == object_id))


def assign_ec2_number(session: Session, kind: str, object_id: str) -> int:
    """The object's number. An object without a number gets the next free one. Needs a write transaction."""
    number = ec2_number(session, kind, object_id)
    return assign_ec2_numbers(session, kind, [object_id])[0] if number is None else number


def assign_ec2_numbers(session: Session, kind: str, object_ids: Sequence[str]) -> list[int]:
    """Gives the next free numbers to the objects that have none, and returns these numbers. Needs a write transaction."""
    known = sa.select(Ec2Id.object_id).where(Ec2Id.kind == kind, Ec2Id.object_id.in_(object_ids))
    numbered = set(session.scalars(known)) if object_ids else set()
    new = [object_id for object_id in object_ids if object_id not in numbered]
    highest = session.scalar(sa.select(sa.func.max(Ec2Id.number)).where(Ec2Id.kind == kind)) or 0 if new else 0
    session.add_all(Ec2Id(kind=kind, number=highest + 1 + at, object_id=new[at]) for at in range(len(new)))
    session.flush()
    return [highest + 1 + at for at in range(len(new))]


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
