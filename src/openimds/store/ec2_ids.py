"""EC2's short ids: a small number for each UUID, which no other object gets."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from openimds.store.models.compute import Ec2Id

_BATCH_SIZE = 500


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


def reserve_ec2_numbers(session: Session, kind: str, given: Sequence[tuple[str, str | None]]) -> None:
    """Gives objects the numbers of imported ids (`i-0000002a`), unless a number is taken or its object has one.

    `given` has pairs of object id and imported id. The first of two equal numbers counts.
    """
    numbers = {object_id: number for object_id, ec2_id in given if (number := _number(ec2_id)) is not None}
    ids = list(numbers)
    for start in range(0, len(ids), _BATCH_SIZE):
        batch = ids[start : start + _BATCH_SIZE]
        of_kind = sa.select(Ec2Id.object_id, Ec2Id.number).where(Ec2Id.kind == kind)
        wanted = [numbers[object_id] for object_id in batch]
        rows = session.execute(of_kind.where(Ec2Id.object_id.in_(batch) | Ec2Id.number.in_(wanted))).all()
        numbered, taken = {row.object_id for row in rows}, {row.number for row in rows}
        for object_id in batch:
            number = numbers[object_id]
            if object_id not in numbered and number not in taken:
                session.add(Ec2Id(kind=kind, number=number, object_id=object_id))
                taken.add(number)


def _number(ec2_id: str | None) -> int | None:
    try:
        return int((ec2_id or "").rpartition("-")[2], 16)
    except ValueError:
        return None
