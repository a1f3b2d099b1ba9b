"""`openimds config sample|validate`"""

from __future__ import annotations

import sys

import click

from openimds.cli.main import CommandFailedError
from openimds.config.programs import PROGRAMS, programs_of


@click.group(help="Show or check configuration files.")
def config() -> None:
    """Its commands follow."""


@config.command(help="Print a file with every option of a program, or of all programs that read a file.")
@click.argument("name", metavar="PROGRAM|FILE")
def sample(*, name: str) -> None:
    from openimds.config.generator import sample_text

    programs = programs_of(name)
    if not programs:
        raise CommandFailedError(f"{name} is neither a program nor a file that one reads: {_known()}")
    click.echo(sample_text(programs), nl=False)


@config.command(help="Check files. Exit code 1 if a program could not start with them.")
@click.argument("files", nargs=-1, required=True, metavar="FILE…")
@click.option("--program", type=click.Choice(tuple(PROGRAMS)), help="Check as this program reads them, all together.")
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
