"""The output of `openimds status`, made from `status.json` and the agents' heartbeats."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from openimds.linux.process import identity
from openimds.store import schema
from openimds.store.engine import Store, utc_now
from openimds.store.models.base import Agent
from openimds.supervisor.state_dir import StateDir
from openimds.supervisor.status import SHOWN_ERRORS, machine_status, status_json, status_text


@pytest.fixture
def folder(tmp_path: Path) -> StateDir:
    made = StateDir(tmp_path / "state")
    made.prepare()
    return made


def heartbeat(
    folder: StateDir,
    configurations: Mapping[str, Any],
    *,
    part: str = "metadata-agent",
    age: timedelta = timedelta(0),
    uptime: timedelta | None = None,
) -> None:
    """Stores a heartbeat of an agent that runs. The process of the test stands for the agent."""
    url = f"sqlite:///{folder.path}/openimds.sqlite"
    (folder.etc / "nova.conf").write_text(f"[DEFAULT]\nstate_path = {folder.path}\n[database]\nconnection = {url}\n")
    store = Store(url)
    schema.upgrade(store)
    with store.write() as session:
        session.add(
            Agent(
                id="a1",
                binary=f"openimds-{part}",
                host="node1",
                agent_type="agent",
                created_at=utc_now(),
                started_at=utc_now(),
                heartbeat_at=utc_now() - age,
                configurations=dict(configurations),
            )
        )
    store.close()
    since = {} if uptime is None else {"since": (datetime.now(UTC) - uptime).isoformat(timespec="seconds")}
    write_entry(folder, part, state="running", **since)


def write_entry(folder: StateDir, name: str, **facts: object) -> None:
    current = identity.current()
    identity.write_pid_file(current, folder.pid_file(name))
    folder.write_status({"parts": [{"name": name, "pid": current.pid, **facts}]})


def row(folder: StateDir, name: str) -> list[str]:
    """The row of the part in the table, and the lines with its errors."""
    lines = status_text(machine_status(folder.path)).splitlines()
    table_row = next(line for line in lines if line.startswith(f"{name} "))
    return [" ".join(table_row.split()), *(line for line in lines if line.startswith(f"{name}: "))]


def test_listeners_are_shown_with_the_wanted_number_and_the_request_rate(folder: StateDir) -> None:
    facts = {"listeners": 3, "listeners_wanted": 3, "ports": 7, "requests_per_second": 12.34, "listen_failures": {}}
    heartbeat(folder, facts)
    assert row(folder, "metadata-agent") == ["metadata-agent ok - 3 of 3 listeners, 7 ports, 12.3 requests/s"]


def test_missing_listeners_are_errors(folder: StateDir) -> None:
    sentence = "169.254.169.254:80 in qdhcp-n1 is in use by another program without SO_REUSEPORT; stop that program"
    failures = {"network:n1": sentence, "router:r1": "cannot listen on 0.0.0.0:9697 in qrouter-r1: Permission denied"}
    heartbeat(folder, {"listeners": 1, "listeners_wanted": 3, "ports": 7, "listen_failures": failures})
    line, *errors = row(folder, "metadata-agent")
    assert line == "metadata-agent degraded - 1 of 3 listeners, 7 ports, 2 errors, see below"
    assert errors == [
        f"metadata-agent: network n1: {sentence}", f"metadata-agent: router r1: {failures['router:r1']}",
    ]  # fmt: skip


def test_only_the_first_errors_of_a_part_are_listed(folder: StateDir) -> None:
    failures = {f"network:n{number}": "no" for number in range(SHOWN_ERRORS + 3)}
    heartbeat(folder, {"listeners": 0, "listeners_wanted": len(failures), "listen_failures": failures})
    _, *errors = row(folder, "metadata-agent")
    assert errors[-1] == "metadata-agent: and 3 more errors"
    assert len(errors) == SHOWN_ERRORS + 1


@pytest.mark.parametrize(
    ("part", "fact", "count", "shown", "error"),
    [
        ("dhcp-agent", "networks", 2, "2 networks", "network x: no address left"),
        ("l3-agent", "routers", 1, "1 router", "router x: no address left"),
        ("compute-agent", "servers", 3, "3 instances", "instance x: no address left"),
    ],
)
def test_failures_of_resources_are_errors(
    folder: StateDir, part: str, fact: str, count: int, shown: str, error: str
) -> None:
    heartbeat(folder, {fact: count, "failures": {"x": "no address left"}}, part=part)
    assert row(folder, part) == [f"{part} degraded - {shown}, 1 error, see below", f"{part}: {error}"]


def test_suspended_removals_are_an_error(folder: StateDir) -> None:
    heartbeat(folder, {"networks": 2, "suspended": "removals are suspended", "failures": {}}, part="dhcp-agent")
    assert row(folder, "dhcp-agent")[1:] == ["dhcp-agent: removals are suspended"]


def test_running_part_without_a_recent_heartbeat_is_degraded(folder: StateDir) -> None:
    heartbeat(
        folder, {"networks": 2}, part="dhcp-agent", age=timedelta(minutes=10), uptime=timedelta(hours=1, minutes=5)
    )
    line, error = row(folder, "dhcp-agent")
    assert line == "dhcp-agent degraded 1 h 5 min ago 2 networks, 1 error, see below"
    assert error == "dhcp-agent: no heartbeat for 600 s"


def test_heartbeat_from_before_the_start_is_ignored(folder: StateDir) -> None:
    facts = {"networks": 2, "failures": {"x": "no address left"}}
    heartbeat(folder, facts, part="dhcp-agent", age=timedelta(minutes=10), uptime=timedelta(seconds=1))
    (line,) = row(folder, "dhcp-agent")
    assert line.startswith("dhcp-agent ok ")
    assert line.endswith("s ago -")


def test_progress_of_a_start_is_shown(folder: StateDir) -> None:
    write_entry(folder, "dhcp-agent", state="starting", said="120 of 200 networks")
    assert row(folder, "dhcp-agent") == ["dhcp-agent starting - 120 of 200 networks"]


def test_control_api_shows_its_address_and_the_number_of_resources(folder: StateDir) -> None:
    heartbeat(folder, {}, part="dhcp-agent")
    write_entry(folder, "control-api", state="running", listens="http://127.0.0.1:5000", restarts=2)
    (line,) = row(folder, "control-api")
    assert line == ("control-api ok - http://127.0.0.1:5000, 0 networks, 0 routers, 0 ports, 0 instances, 2 restarts")


@pytest.mark.parametrize(
    ("last_line", "error"),
    [
        ("openimds: cannot listen on 127.0.0.1:1", "exit code 1: cannot listen on 127.0.0.1:1"),
        ("2026-05-01T10:00:00Z [info] ready", "exit code 1; see {log}"),
    ],
)
def test_failed_start_is_an_error_without_log_fragments(folder: StateDir, last_line: str, error: str) -> None:
    log_file = folder.log_file("l3-agent")
    log_file.write_text(f"2026-05-01T10:00:00Z [info] started\n{last_line}\n")
    folder.write_status({"parts": [{"name": "l3-agent", "state": "waiting", "last_exit": "exit code 1"}]})
    line, shown = row(folder, "l3-agent")
    assert line == "l3-agent down - 1 error, see below"
    assert shown == f"l3-agent: {error.format(log=log_file)}"


def test_json_has_stable_keys(folder: StateDir) -> None:
    heartbeat(folder, {"servers": 1, "failures": {"x": "no address left"}}, part="compute-agent")
    found = json.loads(status_json(machine_status(folder.path)))
    assert set(found) == {"state_dir", "supervisor_pid", "message", "parts"}
    assert found["parts"][-1] == {
        "name": "compute-agent",
        "health": "degraded",
        "state": "running",
        "pid": identity.current().pid,
        "since": None,
        "restarts": 0,
        "listens": None,
        "progress": None,
        "figures": {"instances": 1},
        "errors": ["instance x: no address left"],
        "notes": [],
    }


def test_missing_folder_is_reported_with_the_command_that_creates_it(tmp_path: Path) -> None:
    first = status_text(machine_status(tmp_path / "nowhere")).splitlines()[0]
    assert "the folder does not exist" in first
    assert first.endswith(f"`openimds up --detach --state-dir {tmp_path}/nowhere` creates it and starts everything")


def test_dead_supervisor_is_reported_with_the_running_parts_and_the_remedies(folder: StateDir) -> None:
    heartbeat(folder, {})
    folder.supervisor_pid_file.write_text("4194305\n1\n")  # beyond the highest possible PID
    first = status_text(machine_status(folder.path)).splitlines()[0]
    assert first.startswith(f"the supervisor is dead: 1 of 6 parts run unsupervised in {folder.path}")
    assert f"`openimds up --detach --state-dir {folder.path}` adopts the running parts and starts the others" in first
    assert f"`openimds down --state-dir {folder.path}` stops and removes everything" in first


def test_killed_system_is_distinguished_from_a_stopped_one(folder: StateDir) -> None:
    folder.write_status({"supervisor": 4194305, "parts": [{"name": "l3-agent", "pid": 4194305, "state": "running"}]})
    folder.supervisor_pid_file.write_text("4194305\n1\n")
    text = status_text(machine_status(folder.path))
    assert "the supervisor was killed, or the machine was rebooted" in text
    assert " down " in text
    folder.supervisor_pid_file.unlink()
    folder.mark_all_stopped()
    text = status_text(machine_status(folder.path))
    assert "was killed" not in text
    assert " down " not in text
    assert " stopped " in text


def test_limits_that_a_host_cannot_enforce_are_shown_and_are_no_errors(folder: StateDir) -> None:
    heartbeat(folder, {"servers": 1, "notes": ["guests have no limit of memory"]}, part="compute-agent")
    machine = machine_status(folder.path)
    (part,) = [part for part in machine.parts if part.name == "compute-agent"]
    assert (part.health, part.errors) == ("ok", ())
    assert "compute-agent: note: guests have no limit of memory" in status_text(machine)


def test_start_after_a_failed_one_shows_the_reason_of_the_failure(folder: StateDir) -> None:
    folder.log_file("l3-agent").write_text("openimds: there is no rule create_routr\n")
    write_entry(folder, "l3-agent", state="starting", last_exit="exit code 1")
    assert row(folder, "l3-agent")[1:] == ["l3-agent: exit code 1: there is no rule create_routr"]
