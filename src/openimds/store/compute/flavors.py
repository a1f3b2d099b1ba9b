"""Flavors and their extra specs."""

from __future__ import annotations

import uuid
from collections.abc import Mapping

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from openimds.resources import compute as nouns
from openimds.resources.errors import Conflict, NotFound
from openimds.store.engine import Store
from openimds.store.models.compute import Flavor


class Flavors:
    def __init__(self, store: Store) -> None:
        self._store = store

    def list(self) -> list[nouns.Flavor]:
        """All flavors, by memory, then by id, as Nova sorts them."""
        with self._store.read() as session:
            rows = session.scalars(sa.select(Flavor).order_by(Flavor.ram_mib, Flavor.id))
            return [flavor_value(row) for row in rows]

    def get(self, flavor_id: str) -> nouns.Flavor:
        with self._store.read() as session:
            return flavor_value(flavor_row(session, flavor_id))

    def create(self, flavor: nouns.Flavor) -> nouns.Flavor:
        """A flavor with an empty id gets a UUID. Raises Conflict for the id or the name of another flavor."""
        row = Flavor(
            id=flavor.id or str(uuid.uuid4()),
            name=flavor.name,
            ram_mib=flavor.ram_mib,
            vcpus=flavor.vcpus,
            disk_gib=flavor.disk_gib,
            ephemeral_gib=flavor.ephemeral_gib,
            swap_mib=flavor.swap_mib,
            is_public=flavor.is_public,
            extra_specs=dict(flavor.extra_specs),
            description=flavor.description,
        )
        try:
            with self._store.write() as session:
                session.add(row)
        except IntegrityError as error:
            raise Conflict(f"A flavor with the name {flavor.name} or the id {row.id} already exists.") from error
        return flavor_value(row)

    def describe(self, flavor_id: str, description: str | None) -> nouns.Flavor:
        with self._store.write() as session:
            row = flavor_row(session, flavor_id)
            row.description = description
        return flavor_value(row)

    def delete(self, flavor_id: str) -> None:
        """Deletes a flavor. Servers have a copy of their flavor, so a flavor in use may be deleted."""
        with self._store.write() as session:
            session.delete(flavor_row(session, flavor_id))

    def set_specs(self, flavor_id: str, specs: Mapping[str, str]) -> nouns.Flavor:
        """Adds or replaces these extra specs."""
        with self._store.write() as session:
            row = flavor_row(session, flavor_id)
            row.extra_specs = {**row.extra_specs, **specs}
        return flavor_value(row)

    def delete_spec(self, flavor_id: str, key: str) -> None:
        with self._store.write() as session:
            row = flavor_row(session, flavor_id)
            if key not in row.extra_specs:
                raise NotFound(f"Flavor {flavor_id} has no extra specs with key {key}.")
            row.extra_specs = {name: value for name, value in row.extra_specs.items() if name != key}


def flavor_row(session: Session, flavor_id: str) -> Flavor:
    row = session.get(Flavor, flavor_id)
    if row is None:
        raise NotFound(f"Flavor {flavor_id} could not be found.")
    return row


def flavor_value(row: Flavor) -> nouns.Flavor:
    return nouns.Flavor(
        id=row.id,
        name=row.name,
        ram_mib=row.ram_mib,
        vcpus=row.vcpus,
        disk_gib=row.disk_gib,
        ephemeral_gib=row.ephemeral_gib,
        swap_mib=row.swap_mib,
        is_public=row.is_public,
        extra_specs=dict(row.extra_specs),
        description=row.description,
    )
