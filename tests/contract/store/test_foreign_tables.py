"""A PostgreSQL database of another service is refused, and stays as it was."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from openimds.resources.errors import StoreUnavailable
from openimds.store import schema
from openimds.store.engine import Store


def test_postgresql_database_of_another_service_is_refused_and_unchanged(postgresql_url: str) -> None:
    """Alembic has two versions in Neutron's database, and its tables have names of openimds."""
    url = sa.make_url(postgresql_url)
    others = url.set(database="neutron").render_as_string(hide_password=False)
    statements = (
        "CREATE TABLE networks (id varchar(36))",
        "CREATE TABLE networksegments (id varchar(36))",
        "CREATE TABLE alembic_version (version_num varchar(32))",
        "INSERT INTO alembic_version VALUES ('5c85685d616d'), ('89c58a70ceba')",
    )
    server = sa.create_engine(postgresql_url, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(sa.text("CREATE DATABASE neutron"))
    store = Store(others)
    try:
        with store.engine.begin() as connection:
            for statement in statements:
                connection.execute(sa.text(statement))
        for attempt in (lambda: schema.upgrade(store), lambda: schema.current(store)):
            with pytest.raises(StoreUnavailable, match=r"/neutron.* has the tables of neutron \(networksegments"):
                attempt()
        with store.engine.connect() as connection:
            assert set(sa.inspect(connection).get_table_names()) == {"networks", "networksegments", "alembic_version"}
    finally:
        store.close()
        with server.connect() as connection:
            connection.execute(sa.text("DROP DATABASE neutron WITH (FORCE)"))
        server.dispose()
