"""`openimds version`"""

from __future__ import annotations

import click

from openimds import __version__


@click.command(help="Show the version.")
def version() -> None:
    click.echo(f"openimds {__version__}")
