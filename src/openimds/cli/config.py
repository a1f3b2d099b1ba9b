"""The commands `openimds config sample` and `openimds config validate`."""

from __future__ import annotations

import sys

import click

from openimds.cli.main import CommandFailedError
from openimds.config.programs import PROGRAMS, programs_of


@click.group(help="Print sample configuration files, or check files.")
def config() -> None:
    """The group of the commands below."""


@config.command(help="Print a configuration file with all options of a program, or of all programs that read FILE.")
@click.argument("name", metavar="PROGRAM|FILE")
def sample(*, name: str) -> None:
    from openimds.config.generator import sample_text

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
    from openimds.config.validator import Finding, validate_files

    findings = validate_files(files, PROGRAMS, program)
    for finding in findings:
        click.echo(f"{finding.level}: {finding.sentence}")
    errors = sum(finding.level == Finding.ERROR for finding in findings)
    click.echo(f"{errors} errors, {len(findings) - errors} warnings" if findings else "no errors, no warnings")
    sys.exit(1 if errors else 0)


def _known() -> str:
    files = sorted({file for program in PROGRAMS.values() for file in program.files})
    return ", ".join([*PROGRAMS, *files])
