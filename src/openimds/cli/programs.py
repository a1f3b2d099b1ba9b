"""`openimds dhcp-agent --config-file F …` and its like: each runs one program until it is told to stop."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import click
import structlog

from openimds.cli.main import CommandFailedError
from openimds.config import ConfigError
from openimds.config.programs import PROGRAMS, Program
from openimds.config.settings import CommonConfig
from openimds.runtime.lifecycle import StartupError, begin

log = structlog.get_logger("openimds.cli")

MODULES = {
    "control-api": "control_api.main",
    "metadata-api": "metadata_api.main",
    "metadata-agent": "metadata_agent.main",
    "dhcp-agent": "dhcp_agent",
    "l3-agent": "l3_agent",
    "compute-agent": "compute_agent",
}
"""The module below openimds.programs whose `run` is the program."""

CONFIG_DIR = Path("/etc/openimds")
"""Where a program looks when no --config-file is given."""


def _command(name: str) -> click.Command:
    program = PROGRAMS[name]
    expected = ", ".join(str(CONFIG_DIR / file) for file in program.files)

    @click.command(name=name, help=f"{program.summary}\n\nRuns in the foreground until SIGTERM or Ctrl-C.")
    @click.option(
        "--config-file",
        "config_files",
        multiple=True,
        metavar="FILE",
        help=f"May be repeated; later files win. Without it: {expected}, those that are there.",
    )
    def run(config_files: tuple[str, ...]) -> None:
        sys.exit(run_program(program, config_files or _default_files(program)))

    return run


def run_program(program: Program[CommonConfig], config_files: tuple[str, ...]) -> int:
    """Read the configuration, set up the log, and run the program; its exit code."""
    try:
        config = program.load(config_files)
    except ConfigError as error:
        raise CommandFailedError(str(error)) from error
    begin(config)
    module = importlib.import_module(f"openimds.programs.{MODULES[program.name]}")
    try:
        code = module.run(config)
    except StartupError as error:
        raise CommandFailedError(str(error)) from error
    except Exception:
        log.exception("the program ended by a fault of its own")
        return 1
    return int(code or 0)


def _default_files(program: Program[CommonConfig]) -> tuple[str, ...]:
    return tuple(str(CONFIG_DIR / file) for file in program.files if (CONFIG_DIR / file).exists())


control_api = _command("control-api")
metadata_api = _command("metadata-api")
metadata_agent = _command("metadata-agent")
dhcp_agent = _command("dhcp-agent")
l3_agent = _command("l3-agent")
compute_agent = _command("compute-agent")
