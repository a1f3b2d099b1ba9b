"""The command `openimds`: the list of its commands, the output of errors, and `openimds version`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import click

from openimds import __version__


@dataclass(frozen=True, slots=True)
class LazyCommand:
    """The module and name of a command, and its line in `openimds --help`, which does not import the module."""

    module: str
    name: str
    summary: str


_COMMANDS: Mapping[str, LazyCommand] = {
    "up": LazyCommand("up", "up", "Run all parts on this machine."),
    "down": LazyCommand("up", "down", "Stop all parts and remove what they created."),
    "status": LazyCommand("up", "status", "Show the health of each part."),
    "host": LazyCommand("up", "host", "Accept the control API's database after it was replaced."),
    "restart": LazyCommand("up", "restart", "Restart one part with its current configuration."),
    "control-api": LazyCommand("programs", "control_api", "Run the identity, network, compute and image APIs."),
    "metadata-api": LazyCommand("programs", "metadata_api", "Run the metadata API."),
    "metadata-agent": LazyCommand("programs", "metadata_agent", "Run the metadata agent."),
    "dhcp-agent": LazyCommand("programs", "dhcp_agent", "Run the DHCP agent, with metadata on isolated networks."),
    "l3-agent": LazyCommand("programs", "l3_agent", "Run the L3 agent, with metadata through routers."),
    "compute-agent": LazyCommand("programs", "compute_agent", "Run the compute agent."),
    "config": LazyCommand("config", "config", "Print sample configuration files, or check files."),
    "import": LazyCommand("store", "import_", "Import instances of another system."),
    "export": LazyCommand("store", "export", "Export the instances of a nova for `openimds import`."),
    "db": LazyCommand("store", "db", "Create, upgrade or fill the database."),
    "version": LazyCommand("main", "version", "Show the version."),
}


class LazyGroup(click.Group):
    """A command group that imports the module of a command when it is called."""

    @staticmethod
    def command_names() -> tuple[str, ...]:
        """The names of all commands."""
        return tuple(_COMMANDS)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.command_names())

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
    help="Instance metadata service for OpenStack clouds, and a small cloud around it.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


class CommandFailedError(click.ClickException):
    """A command failed: the message goes to stderr."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click declares it as a class variable

    def show(self, file: object = None) -> None:
        print(f"openimds: {self.message}", file=sys.stderr)


def main() -> None:
    """The entry point of `openimds`. Exit codes: 0 success, 1 failure, 2 invalid arguments, 78 a cloud without the program's API."""
    openimds(prog_name="openimds")


@click.command(help="Show the version.")
def version() -> None:
    click.echo(f"openimds {__version__}")
