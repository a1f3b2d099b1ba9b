"""The commands on the database: `openimds db upgrade`, `version` and `bootstrap`, `openimds import instances`, and
`openimds export nova`, which prints a file for the import.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, get_args

import click

from openimds.cli.main import CommandFailedError
from openimds.config import ConfigError, load_control_api
from openimds.resources.errors import OpenimdsError
from openimds.supervisor.state_dir import DEFAULT

if TYPE_CHECKING:
    from openimds.store.engine import Store

config_file = click.option(
    "--config-file",
    "config_files",
    multiple=True,
    metavar="FILE",
    help="A configuration file of the control API, for [database] connection and state_path. May be repeated.",
)


@click.group(help="Create, upgrade or fill the database.")
def db() -> None:
    """The group of the commands below."""


@db.command(help="Create the tables, or upgrade them to the schema of this version.")
@config_file
def upgrade(*, config_files: tuple[str, ...]) -> None:
    from openimds.store import schema

    with open_store(config_files) as store:
        before = schema.current(store)
        schema.upgrade(store)
        after = schema.current(store)
    click.echo(f"nothing to do: the tables are at {after}" if before == after else f"{before or 'no tables'} → {after}")


@db.command(help="Show the schema version of the tables. Exit code 1 if an upgrade is required.")
@config_file
def version(*, config_files: tuple[str, ...]) -> None:
    from openimds.store import schema

    with open_store(config_files) as store:
        current, newest = schema.current(store), schema.newest()
    click.echo(current or "no tables")
    if current is not None and current > newest:
        raise CommandFailedError(f"the tables are those of a newer openimds; this version supports at most {newest}")
    if current != newest:
        raise CommandFailedError(f"the tables must be at {newest}: run `openimds db upgrade`")


@db.command(help="Create the roles, projects, users, flavors and the image `guest` of a new cloud. The passwords come "
"from the environment (OS_BOOTSTRAP_PASSWORD, OPENIMDS_SERVICE_PASSWORD) or from a prompt. A second run adds only what "
"is missing, and sets the passwords.")  # fmt: skip
@config_file
def bootstrap(*, config_files: tuple[str, ...]) -> None:
    from openimds.store import bootstrap as first
    from openimds.store import schema
    from openimds.store.engine import utc_now

    admin = _password("OS_BOOTSTRAP_PASSWORD", "Password of the user admin")
    service = _password(
        "OPENIMDS_SERVICE_PASSWORD", "Password of the agents, as in [keystone_authtoken] of neutron.conf"
    )
    with open_store(config_files) as store:
        schema.upgrade(store)
        first.bootstrap(store, admin, service, load_control_api(config_files).images_dir, utc_now())
    click.echo(f"the users admin, {' and '.join(first.SERVICE_USERS)} have these passwords")


def _password(variable: str, prompt: str) -> str:
    """Reads a password from the environment or a prompt, because all users of the machine can read command lines."""
    found = os.environ.get(variable) or click.prompt(prompt, hide_input=True)
    return str(found)


@contextmanager
def open_store(config_files: tuple[str, ...]) -> Iterator[Store]:
    """Opens the store of these configuration files for the block. Errors in the block become a CommandFailedError."""
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


@click.group(name="import", help="Import instances of another system.")
def import_() -> None:
    """The group of the commands below."""


@import_.command(help="Create or replace the instances in FILE (JSON or YAML; - is stdin), either all or none.")
@click.argument("file", type=click.File("rb"))
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help=f"The state folder of `openimds up` whose store is used ({DEFAULT} without --config-file).",
)
@config_file
@click.option("--dry-run", is_flag=True, help="Check the file without changing the store.")
@click.option("--sync", is_flag=True, help="Also delete the instances of earlier imports that FILE does not contain.")
@click.option("--force", is_flag=True, help="With --sync: delete them even if they are more than half.")
def instances(
    *, file: IO[bytes], state_dir: Path | None, config_files: tuple[str, ...], dry_run: bool, sync: bool, force: bool
) -> None:
    from openimds.store.importer.importer import InstanceStore, Outcome

    if state_dir is not None and config_files:
        raise CommandFailedError("--state-dir and --config-file both name a store: give only one of them")
    if force and not sync:
        raise CommandFailedError("--force has an effect only with --sync")
    document = _document(file)
    with open_store(config_files or _files_in(state_dir or DEFAULT)) as store, _command_errors():
        _check_tables(store, dry_run=dry_run)
        if sync:
            outcomes = InstanceStore(store).sync_instances(document, is_forced=force, dry_run=dry_run)
            totals = Counter(outcomes.values())
            counts = ", ".join(f"{totals[each]} {each}" for each in get_args(Outcome))
            click.echo(f"a dry run changed nothing: {counts}" if dry_run else counts)
            return
        ids = InstanceStore(store).import_instances(document, dry_run=dry_run)
    count = f"{len(ids)} instance{'' if len(ids) == 1 else 's'}"
    click.echo(f"{count} could be imported; nothing was changed" if dry_run else f"{count} imported")


@contextmanager
def _command_errors() -> Iterator[None]:
    """A block in which an error of the database, such as a value out of range, becomes a CommandFailedError."""
    from sqlalchemy.exc import DBAPIError

    try:
        yield
    except DBAPIError as error:
        raise CommandFailedError(f"nothing was imported: the database rejected a value: {error.orig}") from error


def _files_in(state_dir: Path) -> tuple[str, ...]:
    """The configuration files that `up` passes to the control API."""
    etc = state_dir.absolute() / "etc"
    if not (etc / "nova.conf").exists():
        raise CommandFailedError(
            f"{state_dir} is not a state folder of `openimds up`: {etc / 'nova.conf'} does not exist; run `openimds up` "
            "first, or name the store with --state-dir or --config-file"
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
        return yaml.load(text, loader)  # noqa: S506 - both loaders are safe; the C loader is faster
    except yaml.YAMLError as error:
        raise CommandFailedError(f"the file is not YAML: {' '.join(str(error).split())[:_SHOWN]}") from None


def _check_tables(store: Store, *, dry_run: bool) -> None:
    from openimds.store import schema

    current = schema.current(store)
    if current is None and not dry_run:
        schema.upgrade(store)
    elif current != schema.newest():
        raise CommandFailedError("the tables do not have the schema of this version: run `openimds db upgrade`")


SECRET_MODE = 0o600


@click.group(help="Export the instances of a nova for `openimds import instances`.")
def export() -> None:
    """The group of the commands below."""


@export.command(
    help="Print all instances of a nova as JSON, with ids, keys, user data, passwords and addresses. The command runs where "
    "nova's configuration is readable, such as on a host of nova-api, and reads the databases by nova's own code."
)
@click.option(
    "--config-file",
    "config_files",
    multiple=True,
    metavar="FILE",
    help="A configuration file of nova. May be repeated. Default: those that nova itself reads, such as /etc/nova/nova.conf.",
)
@click.option("--python", default="python3", metavar="PATH", help="The Python of nova's environment.")
@click.option(
    "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write FILE (mode 0600) instead of stdout."
)
@click.option("--without-security-groups", is_flag=True, help="Leave out the security groups, which Neutron has.")
def nova(*, config_files: tuple[str, ...], python: str, output: Path | None, without_security_groups: bool) -> None:
    from openimds.store.importer.importer import instances_in

    options = [f"--config-file={Path(file).absolute()}" for file in config_files]
    program = str(Path(python).absolute()) if "/" in python else python
    document = _exported([program, "-", *options, *(["--without-security-groups"] if without_security_groups else [])])
    try:
        count = sum(1 for _ in instances_in(document))
    except OpenimdsError as error:
        raise CommandFailedError(
            f"nothing was written, because this instance could not be imported: {error}"
        ) from error
    _write_secretly(json.dumps(document, indent=1) + "\n", output)
    click.echo(f"{count} instance{'' if count == 1 else 's'} exported", err=True)


def _exported(command: Sequence[str]) -> dict[str, Any]:
    """The document that the script prints. Its standard error may hold data of instances and is not shown."""
    from openimds.store.importer import importer

    script = Path(importer.__file__).with_name("nova_export.py").read_bytes()
    try:
        # The script is read from stdin, so that the folder of a file does not precede nova's modules in sys.path.
        done = subprocess.run(command, input=script, capture_output=True, check=False, cwd="/")
    except OSError as error:
        raise CommandFailedError(
            f"{command[0]} cannot be run: {error.strerror}: name a Python with --python"
        ) from error
    try:
        document = json.loads(done.stdout)
    except ValueError:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason given"]
        # The message of an exception may hold data.
        reason = lines[-1].partition(":")[0][:_SHOWN]
        raise CommandFailedError(f"{command[0]} ended with code {done.returncode}: {reason}") from None
    if "error" in document:
        raise CommandFailedError(document["error"])
    return dict(document)


def _write_secretly(text: str, output: Path | None) -> None:
    """Writes a file with mode 0600, which replaces an earlier one at once. None is stdout, and a file there gets the mode."""
    if output is None:
        if stat.S_ISREG(os.fstat(sys.stdout.fileno()).st_mode):
            os.fchmod(sys.stdout.fileno(), SECRET_MODE)
        click.echo(text, nl=False)
        return
    draft = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, SECRET_MODE)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        draft.replace(output)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise CommandFailedError(f"{output} cannot be written: {error.strerror}") from error
