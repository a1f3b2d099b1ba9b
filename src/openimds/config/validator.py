"""The checks of configuration files: errors, unknown options, and the options that were probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar, Protocol

from openimds.config.builders import v2_address_warnings
from openimds.config.ini_reader import ConfigError, ConfigFile, IniEntry
from openimds.config.loader import load, option_names
from openimds.config.options import DEFAULT, Section
from openimds.config.options.agents import KEYSTONE_AUTHTOKEN
from openimds.config.options.apis import VENDORDATA_AUTH
from openimds.config.options.keystone import plugin_option_names
from openimds.config.settings import PolicyConfig

MIN_SIMILARITY = 0.85
"""The minimum difflib ratio of a misspelling and the meant name. `service_metadata_porxy` has 0.95."""
OPENSTACK_OPTIONS = Path(__file__).with_name("openstack_options.txt")
"""The sections of nova's and neutron's files, and their options in sections that openimds has too, by
scripts/write-openstack-options."""

LOGIN_OPTIONS = frozenset(
    name for option in KEYSTONE_AUTHTOKEN.options for _, name in option_names(KEYSTONE_AUTHTOKEN.name, option)
)
"""The names of credentials, as in keystoneauth."""

KEYSTONE_SECTIONS = (KEYSTONE_AUTHTOKEN.name, VENDORDATA_AUTH.name)
"""The sections that have the options of any plugin of keystoneauth."""

Name = tuple[str, str]
"""(section, option)"""

EARLIER_OPTIONS = (
    "firewall_driver",
    "linuxnet_interface_driver",
    "network_api_class",
    "security_group_api",
    "use_neutron",
    "verbose",
    "rpc_backend",
    "use_namespaces",
    "root_helper",
    "lock_path",
    "metadata_host",
)
"""Options in [DEFAULT] of nova.conf and neutron's files of earlier releases."""


@cache
def openstack_options() -> tuple[frozenset[str], frozenset[Name]]:
    """The sections that openimds does not have, and the options in the others, of OPENSTACK_OPTIONS."""
    options: dict[str, set[str]] = {}
    section = ""
    for line in OPENSTACK_OPTIONS.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            section = line.strip("[]")
            options[section] = set()
        elif not line.startswith("#"):
            options[section].add(line)
    options[DEFAULT].update(EARLIER_OPTIONS)
    return (
        frozenset(section for section, listed in options.items() if not listed),
        frozenset((section, option) for section, listed in options.items() for option in listed),
    )


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

    With `program`, the files are checked together as that program reads them. Otherwise each file is checked alone: by
    the program that the argument names (`metadata-agent=/tmp/x.ini`), by the programs that read a file of its name, or by
    all programs.
    """
    if program:
        found = list(_check(files, [programs[program]], programs))
        return tuple(found if _has_errors(found) else found + _load_errors(programs[program], files))
    return tuple(
        finding
        for file in files
        for finding in _check([named_program(file, programs)[1]], _readers(file, programs), programs)
    )


def named_program(file: str, programs: Mapping[str, ReadsFiles]) -> tuple[str | None, str]:
    """The program that an argument names, or None, and the path: `metadata-agent=/tmp/x.ini`."""
    name, separator, path = file.partition("=")
    return (name, path) if separator and name in programs else (None, file)


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


def _check(
    files: Sequence[str], readers: Sequence[ReadsFiles], programs: Mapping[str, ReadsFiles]
) -> Iterator[Finding]:
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
    all_names = known_names(section for each in programs.values() for section in each.sections)
    reader_names = ", ".join(reader.name for reader in readers)
    for found in unknown_options(loaded[0][0].files, names):
        warning = f"{found.place}: [{found.section}] {found.option} is not read by {reader_names}"
        if (found.section, found.option) in all_names:
            if not (is_openstacks(found) and _is_service_file(found.path, programs)):
                yield Finding(Finding.WARNING, f"{warning} (another program reads it)")
        elif not is_openstacks(found):
            meant = nearest_name(found, names)
            yield Finding(Finding.WARNING, warning + (f"; was {_format_name(meant)} meant?" if meant else ""))


def _is_service_file(path: str, programs: Mapping[str, ReadsFiles]) -> bool:
    """Whether several programs read a file of this name. nova.conf and neutron.conf have options of all programs."""
    return sum(any(Path(own).stem == Path(path).stem for own in each.files) for each in programs.values()) > 1


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
    named = named_program(file, programs)[0]
    if named is not None:
        return [programs[named]]
    stem = Path(file).stem
    matching = [program for program in programs.values() if any(Path(own).stem == stem for own in program.files)]
    return matching or list(programs.values())


def misspelling_warnings(
    files: Iterable[ConfigFile], own: Sequence[Section], known: Sequence[Section]
) -> Iterator[str]:
    """A warning for each option that no program has and that resembles an option of `own`, the program's sections."""
    names = known_names(own)
    for found in unknown_options(files, known_names(known)):
        if not is_openstacks(found) and (meant := nearest_name(found, names)):
            yield f"{found.place}: [{found.section}] {found.option} is not an option; was {_format_name(meant)} meant?"


def unknown_options(files: Iterable[ConfigFile], names: frozenset[Name]) -> Iterator[IniEntry]:
    """The entries with an option that is neither in `names` nor one of a plugin of keystoneauth."""
    for file in files:
        for found in file.assignments:
            if (found.section, found.option) not in names and not _is_plugin_option(found):
                yield found


def _is_plugin_option(found: IniEntry) -> bool:
    return found.section in KEYSTONE_SECTIONS and found.option in plugin_option_names()


def is_openstacks(found: IniEntry) -> bool:
    """Returns whether nova or neutron has the option, so that it is no sign of a mistake."""
    sections, options = openstack_options()
    is_login = found.section == KEYSTONE_AUTHTOKEN.name and found.option in LOGIN_OPTIONS
    return is_login or found.section in sections or (found.section, found.option) in options


def known_names(sections: Iterable[Section]) -> frozenset[Name]:
    """All names of all options, including old ones."""
    return frozenset(
        name for section in sections for option in section.options for name in option_names(section.name, option)
    )


def nearest_name(found: IniEntry, names: Iterable[Name]) -> Name | None:
    """The option that was probably meant: the same name or a similar one, in the most similar section that has it.

    Credentials have the same names in many sections of OpenStack, so that they are looked for in a similar section only.
    """
    plugins = plugin_option_names() if found.section in KEYSTONE_SECTIONS else ()
    by_option: dict[str, list[Name]] = {option: [(found.section, option)] for option in plugins}
    for name in sorted(names):
        if found.option not in LOGIN_OPTIONS or _similarity(name[0], found.section) >= MIN_SIMILARITY:
            by_option.setdefault(name[1], []).append(name)
    similar = difflib.get_close_matches(found.option, by_option, n=1, cutoff=MIN_SIMILARITY)
    if not similar:
        return None
    return max(by_option[similar[0]], key=lambda name: _similarity(name[0], found.section))


def _similarity(section: str, other: str) -> float:
    return difflib.SequenceMatcher(None, section.lower(), other.lower()).ratio()


def _format_name(name: Name) -> str:
    return f"[{name[0]}] {name[1]}"
