"""`openimds db upgrade|version|bootstrap`"""

from __future__ import annotations

import os
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
    if current is not None and current > newest:
        raise CommandFailedError(f"the tables are those of a newer openimds; this one knows {newest} at most")
    if current != newest:
        raise CommandFailedError(f"the tables are to be at {newest}: run `openimds db upgrade`")


@db.command(help="Add what a new cloud starts with: roles, projects, users, flavors, the image `guest`. Passwords come "
"from the environment (OS_BOOTSTRAP_PASSWORD, OPENIMDS_SERVICE_PASSWORD) or are asked for. Done again, it only adds what "
"is missing, and sets these passwords.")  # fmt: skip
@config_file
def bootstrap(*, config_files: tuple[str, ...]) -> None:
    from openimds.store import bootstrap as first
    from openimds.store import schema
    from openimds.store.engine import utc_now

    admin = _password("OS_BOOTSTRAP_PASSWORD", "The password of the user admin")
    service = _password("OPENIMDS_SERVICE_PASSWORD", "The agents' password, as in [keystone_authtoken] of neutron.conf")
    with open_store(config_files) as store:
        schema.upgrade(store)
        first.bootstrap(store, admin, service, load_control_api(config_files).images_dir, utc_now())
    click.echo(f"the users admin, {' and '.join(first.SERVICE_USERS)} have these passwords")


def _password(variable: str, prompt: str) -> str:
    """Never from the command line, which everybody on the machine can read."""
    found = os.environ.get(variable) or click.prompt(prompt, hide_input=True)
    return str(found)


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
