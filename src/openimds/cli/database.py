"""`openimds db upgrade|version`"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from openimds.cli.main import CommandFailedError
from openimds.config import ConfigError, load_control_api
from openimds.resources.errors import OpenimdsError

if TYPE_CHECKING:
    from openimds.store.engine import Store

config_file = click.option(
    "--config-file",
    "config_files",
    multiple=True,
    metavar="FILE",
    help="The control API's files, for [database] connection and state_path. May be repeated.",
)


@click.group(help="Look after the database.")
def db() -> None:
    """Its commands follow."""


@db.command(help="Make the tables, or bring them to the form that this version needs.")
@config_file
def upgrade(*, config_files: tuple[str, ...]) -> None:
    from openimds.store import schema

    with open_store(config_files) as store:
        before = schema.current(store)
        schema.upgrade(store)
        after = schema.current(store)
    click.echo(f"nothing to do: the tables are at {after}" if before == after else f"{before or 'no tables'} → {after}")


@db.command(help="Show what form the tables have. Exit code 1 if an upgrade is due.")
@config_file
def version(*, config_files: tuple[str, ...]) -> None:
    from openimds.store import schema

    with open_store(config_files) as store:
        current, newest = schema.current(store), schema.newest()
    click.echo(current or "no tables")
    if current != newest:
        raise CommandFailedError(f"the tables are to be at {newest}: run `openimds db upgrade`")


@contextmanager
def open_store(config_files: tuple[str, ...]) -> Iterator[Store]:
    """The store that these files name; what goes wrong with it is told as a sentence."""
    from openimds.store.engine import Store

    try:
        config = load_control_api(config_files)
        store = Store(config.database_url)
        try:
            yield store
        finally:
            store.close()
    except (ConfigError, OpenimdsError) as error:
        raise CommandFailedError(str(error)) from error
