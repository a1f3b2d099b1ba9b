"""The lines of a configuration file: which option is set on which line. The values are parsed by oslo.config."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from oslo_config import iniparser

from openimds.config.options import DEFAULT


class ConfigError(Exception):
    """The configuration is invalid. `problems` are sentences that name file, section and option."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class IniEntry:
    """`option = value` in a file."""

    path: str
    line: int
    section: str
    option: str

    @property
    def place(self) -> str:
        """`/etc/nova/nova.conf, line 3`"""
        return f"{self.path}, line {self.line}"


@dataclass(frozen=True, slots=True)
class ConfigFile:
    path: str
    text: str
    assignments: tuple[IniEntry, ...]
    headerless: bool
    """Whether an option precedes the first `[section]`. It belongs to [DEFAULT]; guides often omit that line."""


def read_files(paths: Sequence[str]) -> tuple[ConfigFile, ...]:
    """Reads all files. Raises ConfigError with the problems of all of them."""
    files: list[ConfigFile] = []
    problems: list[str] = []
    for path in paths:
        try:
            files.append(_read(path))
        except ConfigError as error:
            problems.extend(error.problems)
    if problems:
        raise ConfigError(problems)
    return tuple(files)


@contextmanager
def readable_by_oslo(files: Sequence[ConfigFile]) -> Iterator[list[str]]:
    """Paths of the same files for oslo.config, which rejects a line before the first section.

    A file without the section line is replaced by an anonymous memory file that begins with [DEFAULT]. The copy may
    hold secrets and therefore never reaches a disk.
    """
    with ExitStack() as open_files:
        yield [_with_header(file, open_files) if file.headerless else file.path for file in files]


def _with_header(file: ConfigFile, open_files: ExitStack) -> str:
    descriptor = os.memfd_create(Path(file.path).name)
    copy = open_files.enter_context(os.fdopen(descriptor, "w", encoding="utf-8"))
    copy.write(f"[{DEFAULT}]\n{file.text}")
    copy.flush()
    return f"/proc/self/fd/{descriptor}"


def _read(path: str) -> ConfigFile:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: is not UTF-8 text (byte {error.start}): is it a configuration file?"]) from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError([f"{path}: cannot be read: {reason}"]) from error
    lines = _Lines(path)
    try:
        lines.parse(text.splitlines())
    except iniparser.ParseError as error:
        # The line itself is not shown: it may hold a secret.
        raise ConfigError([f"{path}, line {error.lineno}: {error.msg}; write `option = value`"]) from error
    headerless = any(assignment.section == "" for assignment in lines.assignments)
    return ConfigFile(path, text, tuple(lines.normalized()), headerless)


class _Lines(iniparser.BaseParser):
    """Records the line of each option."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._section = ""
        self._started_at = 0
        self.assignments: list[IniEntry] = []

    def _split_key_value(self, line: str) -> tuple[str, list[str]]:
        self._started_at = self.lineno
        return super()._split_key_value(line)

    def assignment(self, key: str, value: list[str]) -> None:
        self.assignments.append(IniEntry(self._path, self._started_at, self._section, key))

    def new_section(self, section: str) -> None:
        self._section = section

    def normalized(self) -> Iterator[IniEntry]:
        """The entries with section names as oslo.config compares them: lower case, except for DEFAULT."""
        for found in self.assignments:
            section = DEFAULT if found.section in ("", DEFAULT) else found.section.lower()
            yield IniEntry(found.path, found.line, section, found.option.replace("-", "_"))
