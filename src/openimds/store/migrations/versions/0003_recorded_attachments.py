"""Recorded attachments of ports

Ports were attached to servers and routers by `device_id` and `device_owner`, which tenants can write. This migration
records the attachments that the service made itself, and logs the ports that only claim one. Those no longer have effect.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa
import structlog
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

logger = structlog.get_logger(__name__)

_WAS_DHCP = sa.text("device_owner = 'network:dhcp'")
_IS_DHCP = sa.text("attached_owner = 'network:dhcp'")

_ports = sa.table(
    "ports",
    sa.column("id"),
    sa.column("project_id"),
    sa.column("network_id"),
    sa.column("host"),
    sa.column("device_id"),
    sa.column("device_owner"),
    sa.column("attached_id"),
    sa.column("attached_owner"),
    sa.column("binding_generation"),
)
_servers = sa.table("servers", sa.column("id"), sa.column("project_id"), sa.column("nic_order", sa.JSON))
_routers = sa.table("routers", sa.column("id"), sa.column("project_id"), sa.column("external_network_id"))
_networks = sa.table("networks", sa.column("id"), sa.column("project_id"))
_floating_ips = sa.table("floating_ips", sa.column("id"), sa.column("floating_port_id"))
_counter = sa.table("revision_counter", sa.column("id"), sa.column("value"), sa.column("floor"))
_changes = sa.table("changes", sa.column("revision"))


def upgrade() -> None:
    op.add_column("ports", sa.Column("attached_owner", sa.String(255), nullable=False, server_default=""))
    op.add_column("ports", sa.Column("attached_id", sa.String(255), nullable=False, server_default=""))
    op.add_column("ports", sa.Column("binding_generation", sa.Integer(), nullable=False, server_default="0"))
    connection = op.get_bind()
    connection.execute(_ports.update().values(binding_generation=1))
    _record(connection)
    op.drop_index("ix_dhcp_ports", table_name="ports", sqlite_where=_WAS_DHCP, postgresql_where=_WAS_DHCP)
    op.create_index(
        "ix_dhcp_ports", "ports", ["network_id"], unique=False, sqlite_where=_IS_DHCP, postgresql_where=_IS_DHCP
    )
    op.create_index("ix_ports_attached_id", "ports", ["attached_id"], unique=False)
    # Agents must list again, because their objects have no recorded attachments.
    connection.execute(_counter.update().values(value=_counter.c.value + 1, floor=_counter.c.value + 1))
    connection.execute(_changes.delete())


def downgrade() -> None:
    op.drop_index("ix_ports_attached_id", table_name="ports")
    op.drop_index("ix_dhcp_ports", table_name="ports", sqlite_where=_IS_DHCP, postgresql_where=_IS_DHCP)
    op.create_index(
        "ix_dhcp_ports", "ports", ["network_id"], unique=False, sqlite_where=_WAS_DHCP, postgresql_where=_WAS_DHCP
    )
    op.drop_column("ports", "binding_generation")
    op.drop_column("ports", "attached_id")
    op.drop_column("ports", "attached_owner")


def _record(connection: sa.Connection) -> None:
    made_by_service = frozenset(_made_by_service(connection))
    for port in connection.execute(sa.select(_ports).order_by(_ports.c.id)).all():
        if (port.id, port.device_owner, port.device_id) in made_by_service:
            values = {"attached_owner": port.device_owner, "attached_id": port.device_id}
            connection.execute(_ports.update().where(_ports.c.id == port.id).values(values))
        elif port.device_id and port.device_owner.startswith(("network:", "compute:")):
            logger.warning(
                "port attachment not recorded",
                port_id=port.id,
                project_id=port.project_id,
                device_owner=port.device_owner,
                device_id=port.device_id,
                remedy="the device ignores this port; if it belongs there, clear its device and attach it again",
            )


def _made_by_service(connection: sa.Connection) -> Iterator[tuple[str, str, str]]:
    """(port id, device owner, device id) of the attachments that tenants could not have written themselves."""
    servers = {row.id: row for row in connection.execute(sa.select(_servers))}
    routers = {row.id: row for row in connection.execute(sa.select(_routers))}
    networks = {row.id: row.project_id for row in connection.execute(sa.select(_networks))}
    outer = {row.floating_port_id: row.id for row in connection.execute(sa.select(_floating_ips))}
    for port in connection.execute(sa.select(_ports)):
        server, router = servers.get(port.device_id), routers.get(port.device_id)
        made = {
            # The boot and the attach call list the port at the server.
            "compute:": server is not None and port.id in server.nic_order,
            # Members create ports of their own project only; a router's own calls create ports of its project.
            "network:router_interface": router is not None and port.project_id == router.project_id,
            # Members cannot create ports without a project.
            "network:router_gateway": router is not None
            and port.project_id == ""
            and port.network_id == router.external_network_id,
            "network:floatingip": outer.get(port.id) == port.device_id,
            # Only agents bind ports to hosts.
            "network:dhcp": port.host != "" and port.project_id == networks.get(port.network_id),
        }
        kind = "compute:" if port.device_owner.startswith("compute:") else port.device_owner
        if made.get(kind):
            yield port.id, port.device_owner, port.device_id
