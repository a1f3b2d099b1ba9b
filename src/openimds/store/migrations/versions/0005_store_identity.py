"""Store identity

`revision_counter.store_id` identifies the database, so that agents notice when another one takes its place. A restored copy
keeps the identity, and its revision is lower.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

import uuid

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_counter = sa.table("revision_counter", sa.column("store_id"))


def upgrade() -> None:
    op.add_column("revision_counter", sa.Column("store_id", sa.String(length=36), nullable=False, server_default=""))
    op.execute(_counter.update().values(store_id=str(uuid.uuid4())))


def downgrade() -> None:
    op.drop_column("revision_counter", "store_id")
