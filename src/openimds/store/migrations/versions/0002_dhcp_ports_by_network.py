"""DHCP ports by network

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_IS_DHCP = sa.text("device_owner = 'network:dhcp'")


def upgrade() -> None:
    op.create_index(
        "ix_dhcp_ports", "ports", ["network_id"], unique=False, sqlite_where=_IS_DHCP, postgresql_where=_IS_DHCP
    )


def downgrade() -> None:
    op.drop_index("ix_dhcp_ports", table_name="ports", sqlite_where=_IS_DHCP, postgresql_where=_IS_DHCP)
