"""Migration of the tables to the version that this release needs.

After a change of models/, `python -m openimds.store.schema "what changed"` drafts a migration in migrations/versions.
"""

from __future__ import annotations

import re
import sqlite3
import sys
import tempfile
import uuid
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from openimds.resources.errors import StoreUnavailable
from openimds.store.engine import Store
from openimds.store.models.base import RevisionCounter

MIGRATIONS = Path(__file__).parent / "migrations"

_OWN_VERSION = re.compile(r"[0-9]{4}")
"""The versions of other services are hexadecimal digests or names."""

_TABLES_OF = {
    "nova": {"instances", "instance_extra", "cell_mappings", "instance_mappings"},
    "neutron": {"networksegments", "ml2_port_bindings", "standardattributes"},
    "keystone": {"local_user", "credential", "assignment"},
    "placement": {"resource_providers"},
    "glance": {"image_locations"},
    "cinder": {"volumes"},
}
"""Tables by which the error names the service. The check itself refuses every foreign table."""
_MAX_NAMED = 3


def upgrade(store: Store) -> None:
    """Creates or upgrades all tables and the row of the revision counter. Idempotent.

    Raises StoreUnavailable, also if a newer release created the tables, because there is no downgrade, and if the database
    has the tables of another service. The database is then unchanged.
    """
    _make_folder(store)
    _refuse_foreign_file(store)
    with store.translated_errors(), store.engine.connect() as connection:
        if store.is_sqlite:
            # Most migrations copy a table, and dropping the old one would delete the rows that refer to it. SQLite ignores
            # this pragma within a transaction. The connection is detached, so that the pool does not get it back.
            connection.detach()
            connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
            # If two programs start on an empty folder, one creates the tables and the other one waits.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(8775)"))
        before = _own_version(store, connection)
        _refuse_newer(before)
        command.upgrade(_config(connection), "head")
        if store.is_sqlite and before != newest():
            _refuse_dangling(connection)
        if connection.scalar(sa.select(RevisionCounter.id).where(RevisionCounter.id == 1)) is None:
            connection.execute(sa.insert(RevisionCounter).values(id=1, value=0, floor=0, store_id=str(uuid.uuid4())))
        connection.commit()


def _refuse_newer(step: str | None) -> None:
    known = {path.name.partition("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py")}
    if step is not None and step not in known:
        raise StoreUnavailable(
            f"the tables have version {step} of a newer openimds, and this one knows versions up to {max(known)}: install "
            "the newer openimds again, or restore the copy of the database that was made before the upgrade"
        )


def _refuse_dangling(connection: sa.Connection) -> None:
    tables = sorted({row[0] for row in connection.exec_driver_sql("PRAGMA foreign_key_check")})
    if tables:
        raise StoreUnavailable(
            f"the tables are unchanged: after the upgrade rows of {', '.join(tables)} would refer to missing rows"
        )


def current(store: Store) -> str | None:
    """The schema version of the database. None if the database has no tables.

    Raises StoreUnavailable, also for a database with the tables of another service.
    """
    _refuse_foreign_file(store)
    with store.translated_errors(), store.engine.connect() as connection:
        return _own_version(store, connection)


def _own_version(store: Store, connection: sa.Connection) -> str | None:
    versions = MigrationContext.configure(connection).get_current_heads()
    _refuse_foreign(store, sa.inspect(connection).get_table_names(), versions)
    return versions[0] if versions else None


def _refuse_foreign(store: Store, tables: Iterable[str], versions: Iterable[str]) -> None:
    """Raises StoreUnavailable if the database has tables, and Alembic recorded no version of openimds."""
    foreign = sorted(table for table in tables if table != "alembic_version" and not table.startswith("sqlite_"))
    if not foreign or any(_OWN_VERSION.fullmatch(version) for version in versions):
        return
    service = next((name for name, its in _TABLES_OF.items() if its & set(foreign)), "another program")
    named = sorted(set(foreign) & _TABLES_OF.get(service, set())) or foreign
    raise StoreUnavailable(
        f"the database {store.url.render_as_string()} has the tables of {service} ({', '.join(named[:_MAX_NAMED])}, …), so no "
        "tables are created there: create an empty database for openimds, and name it in [database] connection"
    )


def _refuse_foreign_file(store: Store) -> None:
    """Checks a file of SQLite before a connection changes it to WAL mode."""
    file = Path(store.url.database or "")
    if not store.is_sqlite or not file.is_file() or _has_wal_mode(file):
        return
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True)) as connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        steps = connection.execute("SELECT version_num FROM alembic_version") if "alembic_version" in tables else ()
        _refuse_foreign(store, tables, [str(row[0]) for row in steps])


def _has_wal_mode(file: Path) -> bool:
    """Whether the file is empty or in WAL mode, by the format version in its header (sqlite.org/fileformat2.html)."""
    try:
        with file.open("rb") as content:
            return content.read(20)[18:] in {b"", b"\x02\x02"}
    except OSError:
        return True  # the connection reports it


def is_empty(store: Store) -> bool:
    """Whether the database has no tables yet. Creates nothing."""
    database = store.url.database
    if store.is_sqlite and database and not (Path(database).exists() and Path(database).stat().st_size):
        return True
    return current(store) is None


def newest() -> str:
    """The version of the tables that this release needs."""
    head = ScriptDirectory(str(MIGRATIONS)).get_current_head()
    assert head is not None, "migrations/versions has no migration"
    return head


def draft(message: str) -> Path:
    """Writes a migration from the newest version to the tables of models/. Returns the path of the file."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(f"sqlite:///{folder}/draft.sqlite")
        with store.engine.connect() as connection:
            if list((MIGRATIONS / "versions").glob("[0-9]*.py")):
                command.upgrade(_config(connection), "head")
            number = f"{len(list((MIGRATIONS / 'versions').glob('[0-9]*.py'))) + 1:04d}"
            script = command.revision(_config(connection), message, autogenerate=True, rev_id=number)
        store.close()
    assert script is not None
    assert not isinstance(script, list)
    return Path(script.path)


def _config(connection: sa.Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _make_folder(store: Store) -> None:
    if not store.is_sqlite or not store.url.database:
        return
    try:
        Path(store.url.database).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailable(f"the folder of {store.url.database} cannot be created: {error}") from error


if __name__ == "__main__":
    print(draft(sys.argv[1]))  # noqa: T201 - a command for developers
