"""The parts that `openimds up` runs: their command lines, files, start order, and restart delays."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from openimds import __version__

START_ORDER: tuple[tuple[str, ...], ...] = (
    ("control-api", "metadata-api"),
    ("metadata-agent", "dhcp-agent", "l3-agent", "compute-agent"),
)
"""The stages of the start. A stage starts when the previous one is ready; the stop runs in the reverse order."""

RESTART_DELAYS_SECONDS = (0.1, 0.5, 1, 2, 5, 10, 30)
"""The restart delay after the first, second, … exit in a row. The last value applies to all later exits."""
STEADY_SECONDS = 60
"""The uptime after which an exit counts as the first one in a row again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSpec:
    """The description of one part: a program and the files that it runs with."""

    name: str
    argv: tuple[str, ...]
    log_file: Path
    pid_file: Path
    files: tuple[str, ...]
    """The configuration files."""
    listens: str
    """The listening address as shown to the operator: `http://127.0.0.1:5000`, or `-`."""


@dataclass(frozen=True, slots=True)
class RestartBackoff:
    """The restart delay of a part, by the number of its exits in total and in a row."""

    total: int = 0
    in_a_row: int = 0

    def after_exit(self, uptime_seconds: float) -> RestartBackoff:
        return RestartBackoff(self.total + 1, 1 if uptime_seconds >= STEADY_SECONDS else self.in_a_row + 1)

    @property
    def delay_seconds(self) -> float:
        """The delay between the last exit and the restart."""
        index = min(self.in_a_row, len(RESTART_DELAYS_SECONDS)) - 1
        return RESTART_DELAYS_SECONDS[max(0, index)]


def program_argv(words: Sequence[str]) -> tuple[str, ...]:
    """The command line of a command of this installation: `/usr/bin/python3 /usr/bin/openimds dhcp-agent …`."""
    script = Path(sys.executable).with_name("openimds")
    begin = (str(script),) if script.exists() else ("-m", "openimds")
    return (sys.executable, *begin, *words)


def part_argv(name: str, files: Sequence[str]) -> tuple[str, ...]:
    """`… dhcp-agent --config-file etc/neutron.conf --config-file etc/dhcp_agent.ini`"""
    options = [word for file in files for word in ("--config-file", file)]
    return program_argv([name, *options])


def digest(part: ServiceSpec) -> str:
    """The digest of the version, the command line and the current contents of the configuration files.

    A running part with another digest must be replaced. The digest is empty if a file cannot be read.
    """
    sums = hashlib.sha256()
    for word in (__version__, *part.argv):
        sums.update(word.encode() + b"\0")
    try:
        for file in part.files:
            sums.update(hashlib.sha256(Path(file).read_bytes()).digest())
    except OSError:
        return ""
    return sums.hexdigest()


def route_config_file(file: str, readers: Mapping[str, Sequence[str]]) -> tuple[tuple[str, ...], str]:
    """Returns the programs that read a `--config-file` of `up`, and the path of the file.

    `readers` maps each program to the names of its configuration files. The argument `l3-agent=/tmp/x.ini` names the
    program. Otherwise a file whose stem is that of a configuration file (`dhcp_agent` of `dhcp_agent.ini`) is read by the
    programs with that file, and any other file by all programs.
    """
    name, separator, path = file.partition("=")
    if separator and name in readers:
        return (name,), path
    stem = Path(file).stem
    matching = tuple(program for program, names in readers.items() if any(Path(own).stem == stem for own in names))
    return matching or tuple(readers), file
