"""`openimds db upgrade|version|bootstrap`

`openimds import instances FILE`
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from openimds.cli.main import CommandFailedError
from openimds.config import ConfigError, load_control_api
from openimds.resources.errors import OpenimdsError
from openimds.supervisor.state_dir import DEFAULT

if TYPE_CHECKING:
    from openimds.store.engine import Store

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


_SHOWN = 160


@click.group(name="import", help="Take in what was made elsewhere.")
def import_() -> None:
    """Its commands follow."""


@import_.command(help="Make or replace the instances that FILE (JSON or YAML; - is stdin) describes: all, or none.")
@click.argument("file", type=click.File("rb"))
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help=f"Whose store: that of `openimds up` in this folder ({DEFAULT} without --config-file).",
)
@config_file
@click.option("--dry-run", is_flag=True, help="Only say whether it could be done.")
def instances(*, file: IO[bytes], state_dir: Path | None, config_files: tuple[str, ...], dry_run: bool) -> None:
    from openimds.store.importer.importer import InstanceStore

    if state_dir is not None and config_files:
        raise CommandFailedError("--state-dir and --config-file both say where the store is: give one of them")
    document = _document(file)
    with open_store(config_files or _files_in(state_dir or DEFAULT)) as store, _without_traceback():
        _check_tables(store, dry_run=dry_run)
        ids = InstanceStore(store).import_instances(document, dry_run=dry_run)
    count = f"{len(ids)} instance{'' if len(ids) == 1 else 's'}"
    click.echo(f"{count} could be imported; nothing was changed" if dry_run else f"{count} imported")


@contextmanager
def _without_traceback() -> Iterator[None]:
    """A number or a text that the database itself refuses is told as a sentence, too."""
    from sqlalchemy.exc import DBAPIError

    try:
        yield
    except DBAPIError as error:
        raise CommandFailedError(f"nothing was imported: the database refuses a value: {error.orig}") from error


def _files_in(state_dir: Path) -> tuple[str, ...]:
    """As `up` gives them to the control API."""
    etc = state_dir.absolute() / "etc"
    if not (etc / "nova.conf").exists():
        raise CommandFailedError(
            f"nothing was ever up in {state_dir}: there is no {etc / 'nova.conf'}; run `openimds up` first, or say with "
            "--state-dir or --config-file where the store is"
        )
    return tuple(str(etc / name) for name in ("nova.conf", "up.conf") if (etc / name).exists())


def _document(file: IO[bytes]) -> dict[str, Any]:
    raw = file.read()
    try:
        text = raw.decode("utf-8-sig")
        document = json.loads(text) if text.lstrip()[:1] == "{" else _yaml(text)
    except ValueError as error:
        kind = "UTF-8" if isinstance(error, UnicodeDecodeError) else "JSON"
        raise CommandFailedError(f"{file.name} is not {kind}: {error}") from None
    if not isinstance(document, dict):
        raise CommandFailedError(f"{file.name} must hold an object with a list `instances`")
    return document


def _yaml(text: str) -> Any:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return yaml.load(text, loader)  # noqa: S506 - a safe loader, in C where there is one
    except yaml.YAMLError as error:
        raise CommandFailedError(f"the file is not YAML: {' '.join(str(error).split())[:_SHOWN]}") from None


def _check_tables(store: Store, *, dry_run: bool) -> None:
    from openimds.store import schema

    current = schema.current(store)
    if current is None and not dry_run:
        schema.upgrade(store)
    elif current != schema.newest():
        raise CommandFailedError("the store's tables are not at this version's form: run `openimds db upgrade`")
