"""`openimds status` and `openimds restart`: what this machine's parts are, and what each last did."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from prettytable import PrettyTable, TableStyle

from openimds.config import ConfigError, load_control_api
from openimds.config.programs import PROGRAMS
from openimds.linux.process import identity
from openimds.resources.errors import OpenimdsError
from openimds.runtime.lifecycle import StartupError
from openimds.store.engine import Store, utc_now
from openimds.store.models.base import Agent
from openimds.supervisor.state_dir import StateDir

RESTART_TIMEOUT_SECONDS = 60
POLL_SECONDS = 0.05
LAST_LINE_CHARS = 110
SHOWN_FAILURES = 5
LOG_TAIL_BYTES = 16384

_TIME_AND_LEVEL = re.compile(r"^\S+Z \[\w+ *\] ")
"""`2026-11-21T23:19:57.612317Z [info     ] ` as runtime/log_config.py writes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartStatus:
    name: str
    pid: int | None
    state: str
    since: str
    restarts: int
    last_did: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineStatus:
    state_dir: Path
    supervisor_pid: int | None
    was_left: bool
    """A supervisor ran, and ended without taking anything down: it was killed, or the machine started again."""
    parts: tuple[PartStatus, ...]

    @property
    def all_running(self) -> bool:
        return self.supervisor_pid is not None and all(part.state == "running" for part in self.parts)


def machine_status(state_dir: Path) -> MachineStatus:
    """From the supervisor's notes, checked against the processes that there are, and from the agents' heartbeats."""
    folder = StateDir(state_dir.absolute())
    notes = {str(part.get("name")): part for part in folder.read_status().get("parts", [])}
    supervisor = identity.read_pid_file(folder.supervisor_pid_file)
    heartbeats = _heartbeats(folder)
    return MachineStatus(
        state_dir=folder.path,
        supervisor_pid=supervisor.pid if supervisor else None,
        was_left=supervisor is None and folder.supervisor_pid_file.exists(),
        parts=tuple(_part_status(name, folder, notes.get(name, {}), heartbeats) for name in PROGRAMS),
    )


def status_text(machine: MachineStatus) -> str:
    """A table for people."""
    table = PrettyTable(["part", "pid", "since (UTC)", "restarts", "state", "last"])
    table.set_style(TableStyle.PLAIN_COLUMNS)
    table.align = "l"
    table.right_padding_width = 2
    for part in machine.parts:
        since = part.since.replace("T", " ").removesuffix("Z")
        table.add_row([part.name, part.pid or "-", since or "-", part.restarts, part.state, part.last_did or "-"])
    return f"{_headline(machine)}\n\n{table.get_string()}"


def _headline(machine: MachineStatus) -> str:
    """What there is, and what to do about it if that is not all."""
    folder = StateDir(machine.state_dir)
    up, down = f"`{folder.command('up --detach')}`", f"`{folder.command('down')}`"
    running = sum(part.pid is not None for part in machine.parts)
    if machine.supervisor_pid:
        return f"openimds is up in {folder.path} (supervisor: {machine.supervisor_pid})"
    if running:
        return (
            f"the supervisor is dead: nobody supervises what runs in {folder.path} ({running} of {len(machine.parts)} "
            f"parts), and a part that dies stays dead. {up} takes over what runs and starts the rest, with no "
            f"interruption; {down} stops and removes everything"
        )
    if machine.was_left:
        return (
            f"nothing is up in {folder.path}, and nobody took it down: the supervisor was killed, or the machine started "
            f"again. {up} starts everything anew from what is there; {down} removes what is left"
        )
    if not folder.path.exists():
        return f"nothing is up in {folder.path}: there is no such folder. {up} makes it and starts everything"
    return f"nothing is up in {folder.path}. {up} starts everything"


def restart_part(state_dir: Path, name: str, say: Callable[[str], None]) -> None:
    """End the part and wait until the supervisor has it running again. Raises CannotStartError."""
    folder = StateDir(state_dir.absolute())
    if identity.read_pid_file(folder.supervisor_pid_file) is None:
        raise StartupError(
            f"no supervisor runs in {folder.path}: nobody would start {name} again; `{folder.command('up --detach')}` "
            "starts it, and takes over what runs"
        )
    before = identity.read_pid_file(folder.pid_file(name))
    if before is None:
        raise StartupError(f"{name} does not run now; see `{folder.command('status')}`")
    with folder.problems_told():
        folder.restart_request(name).touch()
    before.send(signal.SIGTERM)
    started = time.monotonic()
    note = _note_of(name, folder)
    while time.monotonic() < max(started + RESTART_TIMEOUT_SECONDS, _may_start_until(note, before.pid)):
        note = _note_of(name, folder)
        if note.get("pid") not in (None, before.pid) and note.get("state") == "running":
            say(f"{name} runs again, as process {note['pid']}")
            return
        if note.get("state") == "waiting" and note.get("last_exit", "").endswith("code 1") and not before.is_alive():
            raise StartupError(f"{name} did not start again: {_last_log_line(folder.log_file(name))}")
        time.sleep(POLL_SECONDS)
    said = f" ({note['said']})" if note.get("said") else ""
    waited = f"{time.monotonic() - started:.0f} s"
    raise StartupError(f"{name} is not ready after {waited}{said}: see {folder.log_file(name)}")


def _may_start_until(note: Mapping[str, Any], pid_before: int) -> float:
    """By time.monotonic: a part that tells how its start goes on is waited for longer."""
    is_starting = note.get("state") == "starting" and note.get("pid") != pid_before
    return float(note.get("ready_by", 0)) if is_starting else 0.0


def _note_of(name: str, folder: StateDir) -> Mapping[str, Any]:
    """What the supervisor noted of a part."""
    empty: dict[str, Any] = {}
    return next((part for part in folder.read_status().get("parts", []) if part.get("name") == name), empty)


def _part_status(name: str, folder: StateDir, note: Mapping[str, Any], heartbeats: Mapping[str, str]) -> PartStatus:
    process = identity.read_pid_file(folder.pid_file(name))
    state = str(note.get("state", "not started"))
    if process is None and state in ("running", "starting"):
        state = "dead"
    said = str(note.get("said", "")) if state == "starting" else ""
    last = said or heartbeats.get(name) or _last_log_line(folder.log_file(name))
    if state in ("waiting", "dead") and note.get("last_exit"):
        last = f"{note['last_exit']}; {last}"
    return PartStatus(
        name=name,
        pid=process.pid if process else None,
        state=state,
        since=str(note.get("since", "")),
        restarts=int(note.get("restarts", 0)),
        last_did=last,
    )


def _heartbeats(folder: StateDir) -> dict[str, str]:
    """Program → what its agent said of itself last: `2 s ago: networks=2 …`. Empty when the store cannot be asked."""
    files = [str(folder.etc / file) for file in ("nova.conf", "up.conf") if (folder.etc / file).exists()]
    if not files:
        return {}
    try:
        store = Store(load_control_api(files).database_url)
        try:
            with store.read() as session:
                agents = list(session.scalars(sa.select(Agent)))
        finally:
            store.close()
    except (ConfigError, OpenimdsError, sa.exc.SQLAlchemyError):
        return {}
    now = utc_now()
    return {
        agent.binary.removeprefix("openimds-"): f"{_age(now - agent.heartbeat_at)} ago: {_words(agent.configurations)}"
        for agent in agents
    }


def _words(configurations: Mapping[str, Any]) -> str:
    """`{"networks": 2, "last_round": {"seconds": 0.1}}` → `networks=2 last_round.seconds=0.1`

    The metadata agent's listeners are set against how many are wanted, and each that cannot be had has a line of its own.
    """
    facts = dict(configurations)
    wanted, failures = facts.pop("listeners_wanted", None), facts.pop("listen_failures", {})
    if wanted is not None:
        facts["listeners"] = f"{facts.get('listeners', 0)} of {wanted}"
    line = " ".join(f"{key}={value}" for key, value in _flat(facts))[:LAST_LINE_CHARS]
    return "\n".join([line, *_failure_lines(failures)])


def _failure_lines(failures: Mapping[str, str]) -> Iterator[str]:
    """`network 1f0d…: cannot listen on …`"""
    for tag in sorted(failures)[:SHOWN_FAILURES]:
        kind, _, thing_id = tag.partition(":")
        yield f"{kind} {thing_id}: {failures[tag]}"
    if len(failures) > SHOWN_FAILURES:
        yield f"and {len(failures) - SHOWN_FAILURES} more"


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            yield f"{prefix}{key}", len(value)
        else:
            yield f"{prefix}{key}", value


def _last_log_line(path: Path) -> str:
    try:
        with path.open("rb") as log:
            log.seek(0, 2)
            log.seek(max(0, log.tell() - LOG_TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return _TIME_AND_LEVEL.sub("", last)[:LAST_LINE_CHARS]


def _age(age: timedelta) -> str:
    return f"{max(0, int(age.total_seconds()))} s"
