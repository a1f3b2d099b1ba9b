"""What `openimds status` says of parts, from the supervisor's notes and the agents' heartbeats."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from openimds.linux.process import identity
from openimds.store import schema
from openimds.store.engine import Store, utc_now
from openimds.store.models.base import Agent
from openimds.supervisor.state_dir import StateDir
from openimds.supervisor.status import SHOWN_FAILURES, machine_status, status_text


@pytest.fixture
def folder(tmp_path: Path) -> StateDir:
    made = StateDir(tmp_path / "state")
    made.prepare()
    return made


def heartbeat(folder: StateDir, configurations: Mapping[str, Any]) -> None:
    """Of the metadata agent, which runs: this process stands for it."""
    url = f"sqlite:///{folder.path}/openimds.sqlite"
    (folder.etc / "nova.conf").write_text(f"[DEFAULT]\nstate_path = {folder.path}\n[database]\nconnection = {url}\n")
    store = Store(url)
    schema.upgrade(store)
    with store.write() as session:
        session.add(
            Agent(
                id="a1",
                binary="openimds-metadata-agent",
                host="node1",
                agent_type="Metadata agent",
                created_at=utc_now(),
                started_at=utc_now(),
                heartbeat_at=utc_now(),
                configurations=dict(configurations),
            )
        )
    store.close()
    note(folder, "metadata-agent", state="running")


def note(folder: StateDir, name: str, **facts: object) -> None:
    this = identity.current()
    identity.write_pid_file(this, folder.pid_file(name))
    folder.write_status({"parts": [{"name": name, "pid": this.pid, **facts}]})


def row(folder: StateDir, name: str) -> list[str]:
    """The part's line, and the lines that belong to it."""
    lines = status_text(machine_status(folder.path)).splitlines()
    begin = next(index for index, line in enumerate(lines) if line.startswith(name))
    rest = [line.strip() for line in lines[begin + 1 :]]
    return [lines[begin], *(line for line in rest if line.startswith(("network ", "router ", "and ")))]


def test_the_metadata_agents_listeners_are_set_against_the_wanted_ones(folder: StateDir) -> None:
    heartbeat(folder, {"listeners": 3, "listeners_wanted": 3, "ports": 7, "listen_failures": {}})
    (line,) = row(folder, "metadata-agent")
    assert "listeners=3 of 3 ports=7" in line


def test_listeners_that_are_not_there_are_named(folder: StateDir) -> None:
    sentence = "169.254.169.254:80 in qdhcp-n1 is in use by another program without SO_REUSEPORT; stop that program"
    failures = {"network:n1": sentence, "router:r1": "cannot listen on 0.0.0.0:9697 in qrouter-r1: Permission denied"}
    heartbeat(folder, {"listeners": 1, "listeners_wanted": 3, "ports": 7, "listen_failures": failures})
    line, *named = row(folder, "metadata-agent")
    assert "listeners=1 of 3" in line
    assert named == [f"network n1: {sentence}", f"router r1: {failures['router:r1']}"]


def test_of_many_some_are_named(folder: StateDir) -> None:
    failures = {f"network:n{number}": "no" for number in range(SHOWN_FAILURES + 3)}
    heartbeat(folder, {"listeners": 0, "listeners_wanted": len(failures), "listen_failures": failures})
    _, *named = row(folder, "metadata-agent")
    assert named[-1] == "and 3 more"
    assert len(named) == SHOWN_FAILURES + 1


def test_a_start_that_goes_on_is_shown(folder: StateDir) -> None:
    note(folder, "dhcp-agent", state="starting", said="120 of 200 networks")
    (line,) = row(folder, "dhcp-agent")
    assert line.rstrip().endswith(" 120 of 200 networks")


def test_where_nothing_is_up_it_says_how_to_begin(tmp_path: Path) -> None:
    said = status_text(machine_status(tmp_path / "nowhere")).splitlines()[0]
    assert "there is no such folder" in said
    assert said.endswith(f"`openimds up --detach --state-dir {tmp_path}/nowhere` makes it and starts everything")


def test_a_dead_supervisor_is_told_with_what_runs_and_what_to_do(folder: StateDir) -> None:
    heartbeat(folder, {})
    folder.supervisor_pid_file.write_text("4194305\n1\n")  # beyond the highest possible process id
    said = status_text(machine_status(folder.path)).splitlines()[0]
    assert said.startswith(f"the supervisor is dead: nobody supervises what runs in {folder.path} (1 of 6 parts)")
    assert f"`openimds up --detach --state-dir {folder.path}` takes over what runs and starts the rest" in said
    assert f"`openimds down --state-dir {folder.path}` stops and removes everything" in said


def test_a_system_that_died_whole_is_told_from_one_that_was_taken_down(folder: StateDir) -> None:
    folder.write_status({"supervisor": 4194305, "parts": [{"name": "l3-agent", "pid": 4194305, "state": "running"}]})
    folder.supervisor_pid_file.write_text("4194305\n1\n")
    said = status_text(machine_status(folder.path))
    assert "nobody took it down: the supervisor was killed, or the machine started again" in said
    assert " dead " in said
    folder.supervisor_pid_file.unlink()
    folder.note_all_stopped()
    said = status_text(machine_status(folder.path))
    assert "nobody took it down" not in said
    assert " dead " not in said
    assert "stopped" in said
