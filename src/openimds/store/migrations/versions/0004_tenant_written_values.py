"""Tenant-written values

`deleted_images` has the ids of deleted images, which no other image gets. `servers.locked_by` tells an owner's lock from
an administrator's. Earlier locks count as the owner's, so that owners can still unlock them.

Only administrators may set the tags `metadata-provider=…` of subnets now. The migration logs such tags on networks that
members can create.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
import structlog
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

logger = structlog.get_logger(__name__)

_servers = sa.table("servers", sa.column("locked", sa.Boolean), sa.column("locked_by"))
_subnets = sa.table(
    "subnets", sa.column("id"), sa.column("network_id"), sa.column("project_id"), sa.column("tags", sa.JSON)
)
_networks = sa.table(
    "networks",
    sa.column("id"),
    sa.column("shared", sa.Boolean),
    sa.column("external", sa.Boolean),
    sa.column("provider_network_type"),
)


def upgrade() -> None:
    op.create_table(
        "deleted_images",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("deleted_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.add_column("servers", sa.Column("locked_by", sa.String(length=8), nullable=True))
    op.execute(_servers.update().where(_servers.c.locked).values(locked_by="owner"))
    _log_provider_tags(op.get_bind())


def downgrade() -> None:
    op.drop_column("servers", "locked_by")
    op.drop_table("deleted_images")


def _log_provider_tags(connection: sa.Connection) -> None:
    of_members = ~sa.or_(_networks.c.shared, _networks.c.external) & (_networks.c.provider_network_type == "local")
    on_networks = _subnets.join(_networks, _networks.c.id == _subnets.c.network_id)
    rows = sa.select(_subnets).select_from(on_networks).where(of_members).order_by(_subnets.c.id)
    for subnet in connection.execute(rows):
        for tag in subnet.tags:
            if tag.startswith("metadata-provider="):
                logger.warning(
                    "metadata provider tag found on a network of a project",
                    subnet_id=subnet.id,
                    project_id=subnet.project_id,
                    tag=tag,
                    remedy="the provider serves this subnet; if no administrator set the tag, remove it",
                )
