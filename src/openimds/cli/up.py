"""`openimds up`, `down`, `status`, `restart`: everything on one machine."""

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
    help="Where everything is kept.",
)


@click.command(help="Run everything on this machine, in the foreground: Ctrl-C takes it all down again.")
@_state_dir
@click.option("--control-port", type=click.IntRange(1, 65535), help="The control API's port (5000).")
@click.option("--metadata-port", type=click.IntRange(1, 65535), help="The metadata API's port (8775).")
@click.option("--listen", metavar="ADDRESS", help="The address both listen on (127.0.0.1).")
@click.option("--namespace-prefix", metavar="TEXT", help="Before the namespaces' names (nothing).")
@click.option(
    "--metadata-proxy",
    type=click.Choice(("direct", "haproxy")),
    help="What takes guests' requests in a namespace: the metadata agent itself, or a HAProxy "
    "(as the files say; direct in new ones).",
)
@click.option(
    "--config-file",
    "config_files",
    multiple=True,
    metavar="[PROGRAM=]FILE",
    help="Read after the files in the state folder, by the programs that read a file of this name (nova.conf, "
    "dhcp_agent.ini …), by PROGRAM alone, or by all. May be repeated.",
)
@click.option("--detach", is_flag=True, help="Go on in the background once everything runs.")
@click.option("--debug", is_flag=True, help="Let the supervisor log more.")
def up(  # noqa: PLR0913 - one argument an option
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
    from openimds.supervisor.up import in_background

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
        sys.exit(in_background(lambda say, serving: _up(options, say, serving)))
    sys.exit(_up(options, click.echo, lambda: None))


def _up(options: object, say: Callable[[str], None], serving: Callable[[], None]) -> int:
    from openimds.supervisor.plan import UpOptions
    from openimds.supervisor.up import up as bring_up

    assert isinstance(options, UpOptions)
    try:
        bring_up(options, say, serving)
    except StartupError as error:
        if options.detached:
            say(f"openimds: {error}")
        else:
            print(f"openimds: {error}", file=sys.stderr)
        return 1
    return 0


@click.command(help="Stop everything on this machine and remove what it made; the state is kept.")
@_state_dir
@click.option("--purge", is_flag=True, help="Remove the state as well: store, images, configuration, logs.")
def down(*, state_dir: Path, purge: bool) -> None:
    from openimds.supervisor.down import down as take_down

    try:
        take_down(state_dir, click.echo, purge=purge)
    except StartupError as error:
        raise CommandFailedError(str(error)) from error


@click.command(help="Show the parts of this machine and what each last did. Exit code 1 if not all of them run.")
@_state_dir
def status(*, state_dir: Path) -> None:
    from openimds.supervisor.status import machine_status, status_text

    machine = machine_status(state_dir)
    click.echo(status_text(machine))
    sys.exit(0 if machine.all_running else 1)


@click.command(help="Start one part again, with the configuration as it is now.")
@_state_dir
@click.argument("part", type=click.Choice(tuple(PROGRAMS)))
def restart(*, state_dir: Path, part: str) -> None:
    from openimds.supervisor.status import restart_part

    try:
        restart_part(state_dir, part, click.echo)
    except StartupError as error:
        raise CommandFailedError(str(error)) from error
