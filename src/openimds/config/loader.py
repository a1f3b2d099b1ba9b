"""The checked option values of one program, loaded from its configuration files."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from oslo_config import cfg

from openimds.config.ini_reader import ConfigError, ConfigFile, IniEntry, read_files, readable_by_oslo
from openimds.config.options import DEFAULT, Section

_REASONS = (
    (re.compile(r"invalid literal for int\(\) with base \d+: (?P<value>.+)"), "is not an integer"),
    (re.compile(r"could not convert string to float: (?P<value>.+)"), "is not a number"),
    (re.compile(r"Unexpected boolean value (?P<value>.+)"), "is neither true nor false"),
)


@dataclass(frozen=True, slots=True)
class OptionValues:
    """The values of a program's options, and the files that set them."""

    files: tuple[ConfigFile, ...]
    values: Mapping[tuple[str, str], Any]
    warnings: tuple[str, ...]

    def __getitem__(self, key: tuple[str, str]) -> Any:
        """`values["neutron", "service_metadata_proxy"]`"""
        return self.values[key]

    def where(self, section: Section, name: str) -> str:
        """The place that sets an option, for an error message: `/etc/nova/nova.conf, line 3: [api] dhcp_domain`."""
        option = next(option for option in section.options if option.dest == name)
        return option_place(section.name, option, self.files)


def load(paths: Sequence[str], sections: Sequence[Section]) -> OptionValues:
    """Loads the options of `sections` from `paths`. Later files override earlier ones.

    Raises ConfigError with a sentence for each unreadable file and each invalid value.
    """
    files = read_files(paths)
    conf = _register(sections)
    with readable_by_oslo(files) as readable:
        _parse(conf, readable)
    values: dict[tuple[str, str], Any] = {}
    problems: list[str] = []
    for section in sections:
        for option in section.options:
            try:
                values[section.name, option.dest] = _value(conf, section.name, option)
            except (ValueError, cfg.Error) as error:
                problems.append(_invalid(section.name, option, files, error))
    if problems:
        raise ConfigError(problems)
    warnings = (*_missing_header_warnings(files), *old_name_warnings(files, sections))
    return OptionValues(files, values, warnings)


def oslo_conf(paths: Sequence[str]) -> cfg.ConfigOpts:
    """The files as oslo libraries read them, which register their own options. Raises ConfigError."""
    conf = cfg.ConfigOpts()
    with readable_by_oslo(read_files(paths)) as readable:
        _parse(conf, readable)
    return conf


def option_names(section: str, option: cfg.Opt) -> Iterator[tuple[str, str]]:
    """All names of an option as (section, name), the current one first."""
    yield section, option.dest
    for deprecated in option.deprecated_opts:
        group = deprecated.group or section
        yield (group if group == DEFAULT else group.lower()), (deprecated.name or option.dest).replace("-", "_")


def old_name_warnings(files: Iterable[ConfigFile], sections: Sequence[Section]) -> Iterator[str]:
    """A warning for each line that uses an old name of an option."""
    renamed: dict[tuple[str, str], tuple[str, str]] = {}
    for section in sections:
        for option in section.options:
            current, *older = option_names(section.name, option)
            renamed.update(dict.fromkeys(older, current))
    for found in (assignment for file in files for assignment in file.assignments):
        if new_name := renamed.get((found.section, found.option)):
            yield (
                f"{found.place}: [{found.section}] {found.option} is an old name of [{new_name[0]}] {new_name[1]}, and is "
                "read as that"
            )


def option_place(section: str, option: cfg.Opt, files: Iterable[ConfigFile]) -> str:
    """The place that sets the effective value: file, line, and the name as it is spelt there."""
    names = tuple(option_names(section, option))
    found = _last_assignment(names, files)
    if found is None:
        return f"[{section}] {option.dest}"
    return f"{found.place}: [{found.section}] {found.option}"


def _last_assignment(names: Sequence[tuple[str, str]], files: Iterable[ConfigFile]) -> IniEntry | None:
    for file in reversed(tuple(files)):
        for name in names:
            matching = [found for found in file.assignments if (found.section, found.option) == name]
            if matching:
                return matching[-1]
    return None


def _register(sections: Sequence[Section]) -> cfg.ConfigOpts:
    # oslo.config's own warnings about old names are silenced, because old_name_warnings() also states the line.
    logging.getLogger("oslo_config").setLevel(logging.ERROR)
    conf = cfg.ConfigOpts()
    for section in sections:
        conf.register_opts(section.options, group=None if section.name == DEFAULT else section.name)
    return conf


def _parse(conf: cfg.ConfigOpts, paths: Sequence[str]) -> None:
    try:
        conf([], project="openimds", default_config_files=list(paths), default_config_dirs=[], use_env=False)
    except cfg.Error as error:
        raise ConfigError([str(error)]) from error


def _value(conf: cfg.ConfigOpts, section: str, option: cfg.Opt) -> Any:
    return conf[option.dest] if section == DEFAULT else conf[section][option.dest]


def _invalid(section: str, option: cfg.Opt, files: Sequence[ConfigFile], error: Exception) -> str:
    place = option_place(section, option, files)
    if isinstance(error, cfg.TemplateSubstitutionError):
        return f"{place}: refers to an unknown option ({error}); write $$ for a plain dollar sign"
    # Of `Value for option X from Y is not valid: Z`, `place` already states everything except Z.
    reason = str(error).rsplit("is not valid: ", 1)[-1]
    return f"{place}: is not valid: {'(the value is not shown)' if option.secret else _plain_reason(reason)}"


def _plain_reason(reason: str) -> str:
    """Replaces Python's and oslo.config's messages about invalid numbers and booleans."""
    for pattern, sentence in _REASONS:
        if found := pattern.fullmatch(reason):
            return f"{found['value']} {sentence}"
    return reason


def _missing_header_warnings(files: Iterable[ConfigFile]) -> Iterator[str]:
    for file in files:
        if file.headerless:
            first = min(found.line for found in file.assignments)
            yield (
                f"{file.path}, line {first}: no [section] line precedes this line, so it is read as part of [{DEFAULT}]: "
                f"write [{DEFAULT}] above it"
            )
