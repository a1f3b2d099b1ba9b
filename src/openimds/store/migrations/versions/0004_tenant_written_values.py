"""Tenant-written values

`deleted_images`: the ids of deleted images, which no other image gets. `servers.locked_by`: who locked a server. Nothing
tells it of earlier locks, so their owners can unlock them, as before.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_servers = sa.table("servers", sa.column("locked", sa.Boolean), sa.column("locked_by"))


def upgrade() -> None:
    op.create_table(
        "deleted_images",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("deleted_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.add_column("servers", sa.Column("locked_by", sa.String(length=8), nullable=True))
    op.execute(_servers.update().where(_servers.c.locked).values(locked_by="owner"))


def downgrade() -> None:
    op.drop_column("servers", "locked_by")
    op.drop_table("deleted_images")
