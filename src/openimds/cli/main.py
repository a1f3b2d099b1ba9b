"""`openimds`: which commands there are, and how errors reach the person.

`openimds version`
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import click

from openimds import __version__


@dataclass(frozen=True, slots=True)
class LazyCommand:
    """Where a command is, and what `--help` says of it without importing it."""

    module: str
    name: str
    summary: str


_COMMANDS: Mapping[str, LazyCommand] = {
    "up": LazyCommand("up", "up", "Run everything on this machine."),
    "down": LazyCommand("up", "down", "Stop everything on this machine and remove what it made."),
    "status": LazyCommand("up", "status", "Show the parts of this machine and what each last did."),
    "restart": LazyCommand("up", "restart", "Start one part again, with the configuration as it is now."),
    "control-api": LazyCommand("programs", "control_api", "Serve identity, network, compute and image."),
    "metadata-api": LazyCommand("programs", "metadata_api", "Serve the instances' documents."),
    "metadata-agent": LazyCommand("programs", "metadata_agent", "Find out who asks, sign, and forward."),
    "dhcp-agent": LazyCommand("programs", "dhcp_agent", "Keep DHCP, and metadata on isolated networks."),
    "l3-agent": LazyCommand("programs", "l3_agent", "Keep routers, and metadata through them."),
    "compute-agent": LazyCommand("programs", "compute_agent", "Plug and run instances."),
    "config": LazyCommand("config", "config", "Show or check configuration files."),
    "import": LazyCommand("store", "import_", "Take in instances that were made elsewhere."),
    "db": LazyCommand("store", "db", "Look after the database."),
    "version": LazyCommand("main", "version", "Show the version."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    @staticmethod
    def commands_named() -> tuple[str, ...]:
        """The names of all commands."""
        return tuple(_COMMANDS)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands_named())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = _COMMANDS.get(cmd_name)
        if found is None:
            return None
        command = getattr(importlib.import_module(f"openimds.cli.{found.module}"), found.name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.summary) for name, command in _COMMANDS.items()])


openimds = LazyGroup(
    "openimds",
    help="Tell every instance of a cloud who it is.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


class CommandFailedError(click.ClickException):
    """What was asked cannot be done: the sentence goes to stderr, the exit code is 1."""

    def show(self, file: object = None) -> None:
        print(f"openimds: {self.message}", file=sys.stderr)


def main() -> None:
    """The program `openimds`. Exit codes: 0 done, 1 it could not be done, 2 it was not understood."""
    openimds(prog_name="openimds")


@click.command(help="Show the version.")
def version() -> None:
    click.echo(f"openimds {__version__}")
