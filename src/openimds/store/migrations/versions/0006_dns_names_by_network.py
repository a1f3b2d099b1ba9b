"""DNS names by network

The index finds the ports of a network with a DNS name. Without it, each new name reads all ports of the network.

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ix_ports_dns_name", "ports", ["network_id", sa.text("rtrim(lower(dns_name), '.')"), "project_id"], unique=False
    )


def downgrade() -> None:
    op.drop_index("ix_ports_dns_name", table_name="ports")
