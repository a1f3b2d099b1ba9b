"""What `openimds up` runs: which programs, with which files, in which order; and when a dead one is started again."""

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
"""Started stage by stage, each when the one before is ready; stopped the other way round."""

RESTART_DELAYS_SECONDS = (0.1, 0.5, 1, 2, 5, 10, 30)
"""After the first death in a row, the second …; the last one from then on."""
STEADY_SECONDS = 60
"""A part that has run for so long begins a new row when it dies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSpec:
    """One program under `up`."""

    name: str
    argv: tuple[str, ...]
    log_file: Path
    pid_file: Path
    files: tuple[str, ...]
    """Its configuration files."""
    listens: str
    """For the report: `http://127.0.0.1:5000`."""


@dataclass(frozen=True, slots=True)
class RestartBackoff:
    """How often a part has died, all in all and in a row."""

    total: int = 0
    in_a_row: int = 0

    def after_one_more(self, lived_seconds: float) -> RestartBackoff:
        return RestartBackoff(self.total + 1, 1 if lived_seconds >= STEADY_SECONDS else self.in_a_row + 1)

    @property
    def delay_seconds(self) -> float:
        """How long to wait before the part is started again."""
        index = min(self.in_a_row, len(RESTART_DELAYS_SECONDS)) - 1
        return RESTART_DELAYS_SECONDS[max(0, index)]


def program_argv(words: Sequence[str]) -> tuple[str, ...]:
    """The command line of this very installation: `/usr/bin/python3 /usr/bin/openimds dhcp-agent …`."""
    script = Path(sys.executable).with_name("openimds")
    begin = (str(script),) if script.exists() else ("-m", "openimds")
    return (sys.executable, *begin, *words)


def part_argv(name: str, files: Sequence[str]) -> tuple[str, ...]:
    """`… dhcp-agent --config-file etc/neutron.conf --config-file etc/dhcp_agent.ini`"""
    options = [word for file in files for word in ("--config-file", file)]
    return program_argv([name, *options])


def digest(part: ServiceSpec) -> str:
    """Of what the part is, or would be, started with: version, command line, configuration as it is now.

    A running part that was started with another one must be replaced. Empty when a file cannot be read.
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


def routed(file: str, readers: Mapping[str, Sequence[str]]) -> tuple[tuple[str, ...], str]:
    """Which programs a `--config-file` of `up` is for, and its path.

    `readers`: the names of the files that each program reads. `l3-agent=/tmp/x.ini` is for the program it names;
    a file named like one of a program's own (`dhcp_agent.ini`, also `dhcp_agent.in`) is for whoever reads that;
    any other is for all.
    """
    name, separator, path = file.partition("=")
    if separator and name in readers:
        return (name,), path
    stem = Path(file).stem
    matching = tuple(program for program, names in readers.items() if any(Path(own).stem == stem for own in names))
    return matching or tuple(readers), file
