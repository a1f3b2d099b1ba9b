"""The checks of configuration files: errors, unknown options, and the options that were probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from openimds.config.builders import v2_address_warnings
from openimds.config.ini_reader import ConfigError, ConfigFile, IniEntry
from openimds.config.loader import load, option_names
from openimds.config.options import DEFAULT, Section
from openimds.config.settings import PolicyConfig

MIN_SIMILARITY = 0.85
"""The minimum difflib ratio of a misspelling and the meant name. `service_metadata_porxy` has 0.95. Valid options of nova
and neutron that openimds does not have stay below the minimum, as the tests check."""

Name = tuple[str, str]
"""(section, option)"""

IGNORED_OPTIONS: frozenset[Name] = frozenset(
    (DEFAULT, option)
    for option in (
        # Common options of nova.conf and of neutron's agent files that have no effect in openimds.
        "verbose",
        "log_dir",
        "log_file",
        "use_syslog",
        "use_stderr",
        "transport_url",
        "rpc_backend",
        "auth_strategy",
        "interface_driver",
        "dhcp_driver",
        "my_ip",
        "use_namespaces",
        "root_helper",
        "lock_path",
        "metadata_host",
        "metadata_port",
    )
)
"""Known from OpenStack, read by nothing here, and no sign of a mistake."""


class ReadsFiles(Protocol):
    """A program, as programs.py has them."""

    @property
    def name(self) -> str: ...
    @property
    def files(self) -> tuple[str, ...]: ...
    @property
    def sections(self) -> tuple[Section, ...]: ...
    def load(self, files: Sequence[str], /) -> object: ...


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about a file."""

    ERROR: ClassVar[str] = "error"
    """The level of a finding that prevents a program from starting."""
    WARNING: ClassVar[str] = "warning"
    level: str
    sentence: str


def validate_files(
    files: Sequence[str], programs: Mapping[str, ReadsFiles], program: str | None = None
) -> tuple[Finding, ...]:
    """Returns the findings in `files`.

    With `program`, the files are checked together as that program reads them. Otherwise each file is checked alone by
    the programs that read a file of its name, or by all programs if none does.
    """
    all_sections = [section for each in programs.values() for section in each.sections]
    if program:
        readers: Sequence[ReadsFiles] = [programs[program]]
        found = list(_check(files, readers, all_sections))
        return tuple(found if _has_errors(found) else found + _load_errors(programs[program], files))
    return tuple(finding for file in files for finding in _check([file], _readers(file, programs), all_sections))


def validate_policy(files: Sequence[str], configured: PolicyConfig | None) -> tuple[Finding, ...]:
    """Returns the findings in files of rules, and in those that the control API's configuration refers to."""
    if not files and configured is None:
        return ()
    # Only the control API and this check need oslo.policy, whose import takes longer than the rest of the command.
    from openimds.control_api.policy.files import PolicyError, files_in, read_rules  # noqa: PLC0415

    try:
        paths = [Path(file) for file in files]
        if configured is not None:
            paths += files_in(configured.files, configured.folders, required=configured.required)
        read_rules(dict.fromkeys(paths))
    except PolicyError as error:
        return tuple(Finding(Finding.ERROR, problem) for problem in error.problems)
    return ()


def _check(files: Sequence[str], readers: Sequence[ReadsFiles], all_sections: Sequence[Section]) -> Iterator[Finding]:
    try:
        # Each program loads the files separately, because options of two programs may have the same name.
        loaded = [(load(files, reader.sections), reader.sections) for reader in readers]
    except ConfigError as error:
        yield from (Finding(Finding.ERROR, problem) for problem in error.problems)
        return
    warnings = [
        warning for values, sections in loaded for warning in (*values.warnings, *v2_address_warnings(values, sections))
    ]
    for warning in dict.fromkeys(warnings):
        yield Finding(Finding.WARNING, warning)
    names = known_names(section for reader in readers for section in reader.sections)
    all_names = known_names(all_sections)
    reader_names = ", ".join(reader.name for reader in readers)
    for found in unknown_options(loaded[0][0].files, names):
        warning = f"{found.place}: [{found.section}] {found.option} is not read by {reader_names}"
        meant = nearest_name(found, names)
        elsewhere = " (another program reads it)" if (found.section, found.option) in all_names else ""
        yield Finding(Finding.WARNING, warning + (f"; was {_format_name(meant)} meant?" if meant else elsewhere))


def _has_errors(findings: Iterable[Finding]) -> bool:
    return any(finding.level == Finding.ERROR for finding in findings)


def _load_errors(program: ReadsFiles, files: Sequence[str]) -> list[Finding]:
    """Errors of values that are valid one by one but not together, such as a missing required option."""
    try:
        program.load(files)
    except ConfigError as error:
        return [Finding(Finding.ERROR, problem) for problem in error.problems]
    return []


def _readers(file: str, programs: Mapping[str, ReadsFiles]) -> Sequence[ReadsFiles]:
    stem = Path(file).stem
    named = [program for program in programs.values() if any(Path(own).stem == stem for own in program.files)]
    return named or list(programs.values())


def misspelling_warnings(files: Iterable[ConfigFile], known: Sequence[Section]) -> Iterator[str]:
    """A warning for each unknown option that resembles a known one."""
    names = known_names(known)
    for found in unknown_options(files, names):
        if meant := nearest_name(found, names):
            yield f"{found.place}: [{found.section}] {found.option} is not an option; was {_format_name(meant)} meant?"


def unknown_options(files: Iterable[ConfigFile], names: frozenset[Name]) -> Iterator[IniEntry]:
    """The entries whose option is not in `names`."""
    for file in files:
        for found in file.assignments:
            if (found.section, found.option) not in names | IGNORED_OPTIONS:
                yield found


def known_names(sections: Iterable[Section]) -> frozenset[Name]:
    """All names of all options, including old ones."""
    return frozenset(
        name for section in sections for option in section.options for name in option_names(section.name, option)
    )


def nearest_name(found: IniEntry, names: Iterable[Name]) -> Name | None:
    """The option that was probably meant: the same or a similar name, in the same section if there is one."""
    by_option: dict[str, list[Name]] = {}
    for name in sorted(names):
        by_option.setdefault(name[1], []).append(name)
    similar = difflib.get_close_matches(found.option, by_option, n=1, cutoff=MIN_SIMILARITY)
    if not similar:
        return None
    candidates = by_option[similar[0]]
    same_section = [name for name in candidates if name[0] == found.section]
    return (same_section or candidates)[0]


def _format_name(name: Name) -> str:
    return f"[{name[0]}] {name[1]}"
