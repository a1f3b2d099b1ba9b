"""The commands that run one program until SIGTERM: `openimds dhcp-agent --config-file F …` and others."""

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
"""The module in openimds.programs with the `run` function of each program."""

CONFIG_DIR = Path("/etc/openimds")
"""The folder of the configuration files without --config-file."""


def _command(name: str) -> click.Command:
    program = PROGRAMS[name]
    expected = ", ".join(str(CONFIG_DIR / file) for file in program.files)

    @click.command(name=name, help=f"{program.summary}\n\nRuns in the foreground until SIGTERM or Ctrl-C.")
    @click.option(
        "--config-file",
        "config_files",
        multiple=True,
        metavar="FILE",
        help=f"A configuration file. May be repeated; later files override earlier ones. Default: {expected}, if they exist.",
    )
    def run(config_files: tuple[str, ...]) -> None:
        sys.exit(run_program(program, config_files or _default_files(program)))

    return run


def run_program(program: Program[CommonConfig], config_files: tuple[str, ...]) -> int:
    """Loads the configuration, configures the log, runs the program, and returns its exit code."""
    try:
        config = program.load(config_files)
    except ConfigError as error:
        raise CommandFailedError(str(error)) from error
    begin(config)
    module = importlib.import_module(f"openimds.programs.{MODULES[program.name]}")
    try:
        code = module.run(config)
    except StartupError as error:
        raise CommandFailedError(str(error), error.exit_code) from error
    except Exception:
        log.exception("program ended by an unexpected exception")
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
