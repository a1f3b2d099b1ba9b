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
    route_config_file,
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
def test_config_file_is_routed_to_the_programs_that_read_it(given: str, programs: tuple[str, ...], path: str) -> None:
    assert route_config_file(given, READERS) == (programs, path)


def test_restart_delay_grows_with_exits_in_a_row_and_resets_after_a_steady_time() -> None:
    backoff, delays = RestartBackoff(), []
    for _ in range(9):
        backoff = backoff.after_exit(uptime_seconds=1)
        delays.append(backoff.delay_seconds)
    assert delays == sorted(delays)
    assert (delays[0], delays[-1]) == (0.1, 30)
    steady = backoff.after_exit(uptime_seconds=STEADY_SECONDS)
    assert steady.delay_seconds == 0.1
    assert steady.total == 10


def test_digest_changes_with_command_line_and_files(tmp_path: Path) -> None:
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
