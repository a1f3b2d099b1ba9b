"""The commands `openimds config sample` and `openimds config validate`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from openimds.cli.main import CommandFailedError
from openimds.config.ini_reader import ConfigError, read_files
from openimds.config.programs import CONTROL_API, PROGRAMS, programs_of
from openimds.config.settings import PolicyConfig

POLICY_FILE = "policy.yaml"


@click.group(help="Print sample configuration files, or check files.")
def config() -> None:
    """The group of the commands below."""


@config.command(
    help="Print a configuration file with all options of a program, or of all programs that read FILE. `policy.yaml` prints "
    "the rules of the control API."
)
@click.argument("name", metavar="PROGRAM|FILE")
def sample(*, name: str) -> None:
    from openimds.config.generator import sample_text

    if name == POLICY_FILE:
        from openimds.control_api.policy.files import sample_text as sample_policy

        click.echo(sample_policy(), nl=False)
        return
    programs = programs_of(name)
    if not programs:
        raise CommandFailedError(f"{name} is neither a program nor the name of a configuration file: {_known()}")
    click.echo(sample_text(programs), nl=False)


@config.command(help="Check configuration files. Exit code 1 if a program cannot start with them.")
@click.argument("files", nargs=-1, required=True, metavar="FILE…")
@click.option(
    "--program", type=click.Choice(tuple(PROGRAMS)), help="Check the files together, as this program reads them."
)
def validate(*, files: tuple[str, ...], program: str | None) -> None:
    from openimds.config.validator import Finding, validate_files, validate_policy

    policy_files = [file for file in files if file.endswith((".yaml", ".yml"))]
    others = [file for file in files if file not in policy_files]
    findings = (
        *(validate_files(others, PROGRAMS, program) if others else ()),
        *validate_policy(policy_files, _configured_policy(others, program)),
    )
    for finding in findings:
        click.echo(f"{finding.level}: {finding.sentence}")
    errors = sum(finding.level == Finding.ERROR for finding in findings)
    click.echo(f"{errors} errors, {len(findings) - errors} warnings" if findings else "no errors, no warnings")
    sys.exit(1 if errors else 0)


def _configured_policy(files: Sequence[str], program: str | None) -> PolicyConfig | None:
    """The files of rules that the control API's configuration refers to. None without a valid file of the control API.

    A nova.conf without the section [control_api] is Nova's, and a policy.yaml beside it has rules of Nova.
    """
    own = [file for file in files if program == CONTROL_API.name or Path(file).name in CONTROL_API.files]
    if not own or program not in {None, CONTROL_API.name}:
        return None
    try:
        read = read_files(own)
        if program is None and not any(found.section == "control_api" for file in read for found in file.assignments):
            return None
        return CONTROL_API.load(own).policy
    except ConfigError:
        return None


def _known() -> str:
    files = sorted({file for program in PROGRAMS.values() for file in program.files})
    return ", ".join([*PROGRAMS, *files, POLICY_FILE])
