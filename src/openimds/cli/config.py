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
from openimds.config.validator import named_program

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


@config.command(
    help="Check configuration files. Exit code 1 if a program cannot start with them. The name of a file says which "
    "programs read it. PROGRAM=FILE names the program, such as metadata-agent=/etc/neutron/my.ini."
)
@click.argument("files", nargs=-1, required=True, metavar="[PROGRAM=]FILE…")
@click.option(
    "--program", type=click.Choice(tuple(PROGRAMS)), help="Check the files together, as this program reads them."
)
def validate(*, files: tuple[str, ...], program: str | None) -> None:
    from openimds.config.validator import Finding, validate_files, validate_policy

    for file in files:
        _check_argument(file, program)
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


def _check_argument(file: str, program: str | None) -> None:
    """Raises CommandFailedError for PROGRAM=FILE with an unknown program, or together with --program."""
    name, separator, _ = file.partition("=")
    if separator and name in PROGRAMS and program is not None:
        raise CommandFailedError(f"{file} and --program {program} both name a program: give only one of them")
    if separator and name not in PROGRAMS and "/" not in name and not Path(file).exists():
        raise CommandFailedError(f"{name} of {file} is no program: the programs are {', '.join(PROGRAMS)}")


def _configured_policy(files: Sequence[str], program: str | None) -> PolicyConfig | None:
    """The files of rules that the control API's configuration refers to. None without a valid file of the control API.

    A nova.conf without the section [control_api] is Nova's, and a policy.yaml beside it has rules of Nova.
    """
    own: list[str] = []
    is_named = False
    for name, path in (named_program(file, PROGRAMS) for file in files):
        reader = name or program
        if reader == CONTROL_API.name or (reader is None and Path(path).name in CONTROL_API.files):
            own.append(path)
            is_named = is_named or reader is not None
    try:
        read = read_files(own)
        if not is_named and not any(found.section == "control_api" for file in read for found in file.assignments):
            return None
        return CONTROL_API.load(own).policy
    except ConfigError:
        return None


def _known() -> str:
    files = sorted({file for program in PROGRAMS.values() for file in program.files})
    return ", ".join([*PROGRAMS, *files, POLICY_FILE])
