"""Files → checked option values of one program."""

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
    (re.compile(r"invalid literal for int\(\) with base \d+: (?P<value>.+)"), "is no whole number"),
    (re.compile(r"could not convert string to float: (?P<value>.+)"), "is no number"),
    (re.compile(r"Unexpected boolean value (?P<value>.+)"), "is neither true nor false"),
)


@dataclass(frozen=True, slots=True)
class OptionValues:
    """The values of a program's options, and where they were set."""

    files: tuple[ConfigFile, ...]
    values: Mapping[tuple[str, str], Any]
    warnings: tuple[str, ...]

    def __getitem__(self, key: tuple[str, str]) -> Any:
        """`values["neutron", "service_metadata_proxy"]`"""
        return self.values[key]

    def where(self, section: Section, name: str) -> str:
        """`/etc/nova/nova.conf, line 3: [api] dhcp_domain`, for a sentence about that option."""
        option = next(option for option in section.options if option.dest == name)
        return place_of(section.name, option, self.files)


def load(paths: Sequence[str], sections: Sequence[Section]) -> OptionValues:
    """Read `paths` (later ones win) for the options of `sections`.

    Raises ConfigError with a sentence for every file that cannot be read and every value that is not valid.
    """
    files = read_files(paths)
    conf = _registered(sections)
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
    warnings = (*_missing_headers(files), *old_spellings(files, sections))
    return OptionValues(files, values, warnings)


def spellings(section: str, option: cfg.Opt) -> Iterator[tuple[str, str]]:
    """(section, name) of all spellings of an option, the current one first."""
    yield section, option.dest
    for deprecated in option.deprecated_opts:
        group = deprecated.group or section
        yield (group if group == DEFAULT else group.lower()), (deprecated.name or option.dest).replace("-", "_")


def old_spellings(files: Iterable[ConfigFile], sections: Sequence[Section]) -> Iterator[str]:
    """A sentence for each line that uses an old name of an option."""
    renamed: dict[tuple[str, str], tuple[str, str]] = {}
    for section in sections:
        for option in section.options:
            current, *older = spellings(section.name, option)
            renamed.update(dict.fromkeys(older, current))
    for found in (assignment for file in files for assignment in file.assignments):
        if now := renamed.get((found.section, found.option)):
            yield (
                f"{found.place}: [{found.section}] {found.option} is an old name of [{now[0]}] {now[1]}; "
                "it is taken as that"
            )


def place_of(section: str, option: cfg.Opt, files: Iterable[ConfigFile]) -> str:
    """Where the value that counts is set: file, line, and the name as it is spelt there."""
    names = tuple(spellings(section, option))
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


def _registered(sections: Sequence[Section]) -> cfg.ConfigOpts:
    # oslo.config would log its own words about old names; ours (old_spellings) tell the line.
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
    place = place_of(section, option, files)
    if isinstance(error, cfg.TemplateSubstitutionError):
        return f"{place}: names an option that is not there ({error}); write $$ for a plain dollar sign"
    # `Value for option X from Y is not valid: Z`: only Z says something that `place` does not.
    reason = str(error).rsplit("is not valid: ", 1)[-1]
    return f"{place}: is not valid: {'(the value is not shown)' if option.secret else _in_words(reason)}"


def _in_words(reason: str) -> str:
    """Python's and oslo.config's own words for a wrong number or a wrong yes or no."""
    for pattern, sentence in _REASONS:
        if found := pattern.fullmatch(reason):
            return f"{found['value']} {sentence}"
    return reason


def _missing_headers(files: Iterable[ConfigFile]) -> Iterator[str]:
    for file in files:
        if file.headerless:
            first = min(found.line for found in file.assignments)
            yield (
                f"{file.path}, line {first}: there is no [section] line before it; what stands there is taken as "
                f"[{DEFAULT}]: write [{DEFAULT}] above it"
            )
