"""The commands for one machine: `openimds up`, `down`, `status` and `restart`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import click

from openimds.cli.main import CommandFailedError
from openimds.config.programs import PROGRAMS
from openimds.runtime.lifecycle import StartupError
from openimds.supervisor.state_dir import DEFAULT

_state_dir = click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT,
    show_default=True,
    help="The folder of configuration, store, images and logs.",
)


@click.command(help="Run all parts on this machine in the foreground. Ctrl-C stops them and removes what they created.")
@_state_dir
@click.option("--control-port", type=click.IntRange(1, 65535), help="The port of the control API (5000).")
@click.option("--metadata-port", type=click.IntRange(1, 65535), help="The port of the metadata API (8775).")
@click.option("--listen", metavar="ADDRESS", help="The address that both APIs listen on (127.0.0.1).")
@click.option("--namespace-prefix", metavar="TEXT", help="The prefix of network namespace names (empty).")
@click.option(
    "--metadata-proxy",
    type=click.Choice(("direct", "haproxy")),
    help="The listener for metadata requests in a namespace: the metadata agent itself (direct), or HAProxy. Without "
    "this option the files decide; new files contain direct.",
)
@click.option(
    "--config-file",
    "config_files",
    multiple=True,
    metavar="[PROGRAM=]FILE",
    help="A configuration file that is read after those in the state folder: by PROGRAM, by the programs that read a "
    "file of this name (nova.conf, dhcp_agent.ini …), or else by all. May be repeated.",
)
@click.option("--detach", is_flag=True, help="Continue in the background once all parts are ready.")
@click.option("--debug", is_flag=True, help="Log debug events of the supervisor.")
def up(  # noqa: PLR0913 - one argument per option
    *,
    state_dir: Path,
    control_port: int | None,
    metadata_port: int | None,
    listen: str | None,
    namespace_prefix: str | None,
    metadata_proxy: str | None,
    config_files: tuple[str, ...],
    detach: bool,
    debug: bool,
) -> None:
    from openimds.supervisor.plan import UpOptions
    from openimds.supervisor.up import run_in_background

    options = UpOptions(
        state_dir=state_dir,
        listen=listen,
        control_port=control_port,
        metadata_port=metadata_port,
        namespace_prefix=namespace_prefix,
        metadata_proxy=metadata_proxy,
        config_files=config_files,
        debug=debug,
        detached=detach,
    )
    if detach:
        sys.exit(run_in_background(lambda echo, on_ready: _up(options, echo, on_ready)))
    sys.exit(_up(options, click.echo, lambda: None))


def _up(options: object, echo: Callable[[str], None], on_ready: Callable[[], None]) -> int:
    from openimds.supervisor.plan import UpOptions
    from openimds.supervisor.up import up as run_up

    assert isinstance(options, UpOptions)
    try:
        run_up(options, echo, on_ready)
    except StartupError as error:
        if options.detached:
            echo(f"openimds: {error}")
        else:
            print(f"openimds: {error}", file=sys.stderr)
        return 1
    return 0


@click.command(help="Stop all parts on this machine and remove what they created. The state is kept.")
@_state_dir
@click.option("--purge", is_flag=True, help="Remove the state as well: store, images, configuration, logs.")
def down(*, state_dir: Path, purge: bool) -> None:
    from openimds.supervisor.down import down as run_down

    try:
        run_down(state_dir, click.echo, purge=purge)
    except StartupError as error:
        raise CommandFailedError(str(error)) from error


@click.command(help="Show the health of each part on this machine. Exit code 1 if a part does not run.")
@_state_dir
@click.option("--output", type=click.Choice(("text", "json")), default="text", help="The output format (text).")
def status(*, state_dir: Path, output: str) -> None:
    from openimds.supervisor.status import machine_status, status_json, status_text

    machine = machine_status(state_dir)
    click.echo(status_json(machine) if output == "json" else status_text(machine))
    sys.exit(0 if machine.all_running else 1)


@click.command(help="Restart one part with its current configuration.")
@_state_dir
@click.argument("part", type=click.Choice(tuple(PROGRAMS)))
def restart(*, state_dir: Path, part: str) -> None:
    from openimds.supervisor.status import restart_part

    try:
        restart_part(state_dir, part, click.echo)
    except StartupError as error:
        raise CommandFailedError(str(error)) from error


@click.group(help="Look after the resources of this host.")
def host() -> None:
    """Its commands follow."""


@host.command(
    help="Accept the current state of the control API after its database was replaced or restored from an older copy. "
    "The agents of this host then remove what the database does not contain."
)
@_state_dir
def adopt(*, state_dir: Path) -> None:
    from openimds.client.store_guard import forget_store

    try:
        count = forget_store(state_dir)
    except OSError as error:
        raise CommandFailedError(f"the records in {error.filename} could not be removed: {error.strerror}") from error
    if count:
        click.echo(f"{count} programs of this host accept the database of the control API within seconds")
    else:
        click.echo(f"nothing to do: no program has recorded a database in {state_dir}")
