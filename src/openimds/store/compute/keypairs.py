"""Keypairs: public keys that users imported or generated. Private keys are never stored."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from openimds.resources import compute as nouns
from openimds.resources.errors import BadRequest, Conflict, NotFound
from openimds.store.engine import Store
from openimds.store.models.compute import Keypair


class Keypairs:
    def __init__(self, store: Store) -> None:
        self._store = store

    def list(self, user_id: str) -> list[nouns.Keypair]:
        with self._store.read() as session:
            rows = session.scalars(sa.select(Keypair).where(Keypair.user_id == user_id).order_by(Keypair.name))
            return [keypair_value(row) for row in rows]

    def get(self, user_id: str, name: str) -> nouns.Keypair:
        with self._store.read() as session:
            row = session.get(Keypair, (user_id, name))
            if row is None:
                raise NotFound(f"Keypair {name} not found for user {user_id}")
            return keypair_value(row)

    def create(self, keypair: nouns.Keypair) -> None:
        """Raises Conflict if the user has a keypair of this name."""
        try:
            with self._store.write() as session:
                session.add(
                    Keypair(
                        user_id=keypair.user_id,
                        name=keypair.name,
                        type=keypair.type,
                        public_key=keypair.public_key,
                        fingerprint=keypair.fingerprint,
                        created_at=keypair.created_at,
                    )
                )
        except IntegrityError as error:
            raise Conflict(f"Key pair '{keypair.name}' already exists.") from error

    def delete(self, user_id: str, name: str) -> None:
        """Deletes a keypair. Servers keep the key of their creation."""
        with self._store.write() as session:
            row = session.get(Keypair, (user_id, name))
            if row is None:
                raise NotFound(f"Keypair {name} not found for user {user_id}")
            session.delete(row)


def named_keypair(session: Session, user_id: str, name: str) -> Keypair:
    """The user's keypair that a request names. Raises BadRequest if there is none."""
    row = session.get(Keypair, (user_id, name))
    if row is None:
        raise BadRequest("key_name", f"Invalid key_name provided: there is no keypair {name}.")
    return row


def keypair_value(row: Keypair) -> nouns.Keypair:
    return nouns.Keypair(
        user_id=row.user_id,
        name=row.name,
        type=row.type,
        public_key=row.public_key,
        fingerprint=row.fingerprint,
        created_at=row.created_at,
    )
