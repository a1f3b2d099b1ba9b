from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from openimds.config.programs import PROGRAMS
from openimds.supervisor.service_spec import (
    START_ORDER,
    STEADY_SECONDS,
    RestartBackoff,
    ServiceSpec,
    digest,
    part_argv,
    routed,
)

READERS = {name: program.files for name, program in PROGRAMS.items()}


def test_every_program_is_started_once() -> None:
    assert sorted(name for stage in START_ORDER for name in stage) == sorted(PROGRAMS)


@pytest.mark.parametrize(
    ("given", "programs", "path"),
    [
        ("/tmp/nova.conf", ("control-api", "metadata-api"), "/tmp/nova.conf"),
        ("dhcp_agent.in", ("dhcp-agent",), "dhcp_agent.in"),
        ("x/metadata_agent.ini", ("metadata-agent",), "x/metadata_agent.ini"),
        ("neutron.conf", ("metadata-agent", "dhcp-agent", "l3-agent", "compute-agent"), "neutron.conf"),
        ("l3-agent=/tmp/x.ini", ("l3-agent",), "/tmp/x.ini"),
        ("/tmp/mine.ini", tuple(PROGRAMS), "/tmp/mine.ini"),
        ("/tmp/a=b.ini", tuple(PROGRAMS), "/tmp/a=b.ini"),
    ],
)
def test_which_programs_a_file_is_for(given: str, programs: tuple[str, ...], path: str) -> None:
    assert routed(given, READERS) == (programs, path)


def test_the_wait_grows_with_deaths_in_a_row_and_begins_anew_after_a_steady_time() -> None:
    deaths, waits = RestartBackoff(), []
    for _ in range(9):
        deaths = deaths.after_one_more(lived_seconds=1)
        waits.append(deaths.delay_seconds)
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (0.1, 30)
    steady = deaths.after_one_more(lived_seconds=STEADY_SECONDS)
    assert steady.delay_seconds == 0.1
    assert steady.total == 10


def test_a_digest_tells_another_start_from_the_same_one(tmp_path: Path) -> None:
    file = tmp_path / "a.ini"
    file.write_text("x")
    part = ServiceSpec(
        name="dhcp-agent", argv=part_argv("dhcp-agent", [str(file)]), log_file=tmp_path, pid_file=tmp_path,
        files=(str(file),), listens="-",
    )  # fmt: skip
    assert part.argv[-3:] == ("dhcp-agent", "--config-file", str(file))
    same = digest(part)
    assert digest(part) == same
    assert digest(replace(part, argv=part_argv("dhcp-agent", ["b.ini"]))) != same
    file.write_text("y")
    assert digest(part) != same
    file.unlink()
    assert digest(part) == ""
