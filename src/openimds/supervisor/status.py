"""`openimds status` and `openimds restart`: the health of the parts of this machine.

The status combines the supervisor's `status.json`, the processes of the machine, and the agents' heartbeats in the store.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from prettytable import PrettyTable, TableStyle

from openimds.config import ConfigError, ControlApiConfig, load_control_api
from openimds.config.programs import PROGRAMS
from openimds.config.validator import validate_policy
from openimds.linux.process import identity
from openimds.resources.errors import OpenimdsError
from openimds.runtime.lifecycle import StartupError
from openimds.store.engine import Store, utc_now
from openimds.store.models.base import Agent
from openimds.store.models.compute import Server
from openimds.store.models.network import Network, Port, Router
from openimds.supervisor.state_dir import StateDir

RESTART_TIMEOUT_SECONDS = 60
POLL_SECONDS = 0.05
SHOWN_ERRORS = 5
LOG_TAIL_BYTES = 16384
STARTUP_ERROR_PREFIX = "openimds: "
"""The prefix of the message that a program prints when it cannot start (`cli.main.CommandFailedError`)."""

COUNTED = {"networks": Network, "routers": Router, "ports": Port, "instances": Server}
FACTS = ("networks", "routers", "servers", "listeners", "listeners_wanted", "ports", "requests_per_second")
"""The facts of heartbeats that the status shows."""
KINDS = {"networks": "network", "routers": "router", "servers": "instance"}
"""The resource that the `failures` of a heartbeat are about, by the fact that counts it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartStatus:
    name: str
    health: str
    """`ok`, `degraded` (running with errors, or without a heartbeat), `starting`, `down`, or `stopped`."""
    state: str
    """The supervisor's state of the part, or `dead` if its process is gone without a supervisor."""
    pid: int | None
    since: str
    """The time of the last change of state: `2026-05-01T10:00:00Z`. Empty if the part never ran."""
    restarts: int
    listens: str
    progress: str
    """The progress of a part that is starting: `120 of 200 networks`."""
    figures: Mapping[str, float]
    errors: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """Properties of the host that the operator should know, such as a limit that it cannot enforce. They are no errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineStatus:
    state_dir: Path
    supervisor_pid: int | None
    is_orphaned: bool
    """True if a supervisor ended without stopping its parts, because it was killed or the machine was rebooted."""
    parts: tuple[PartStatus, ...]

    @property
    def all_running(self) -> bool:
        return self.supervisor_pid is not None and all(part.state == "running" for part in self.parts)


@dataclass(frozen=True, slots=True)
class _StoreFacts:
    """The facts in the store: the number of resources, and the last heartbeat of each program by its name."""

    counts: Mapping[str, int] = field(default_factory=dict)
    heartbeats: Mapping[str, _Heartbeat] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Heartbeat:
    age_seconds: float
    max_age_seconds: float
    """The option agent_down_time."""
    facts: Mapping[str, Any]

    def is_late(self, uptime_seconds: float) -> bool:
        """Returns whether a part of this uptime should have sent another heartbeat."""
        return min(self.age_seconds, uptime_seconds) > self.max_age_seconds


def machine_status(state_dir: Path) -> MachineStatus:
    """Reads the status of all parts from the state folder, /proc and the store."""
    folder = StateDir(state_dir.absolute())
    entries = {str(entry.get("name")): entry for entry in folder.read_status().get("parts", [])}
    supervisor = identity.read_pid_file(folder.supervisor_pid_file)
    facts = _store_facts(folder)
    return MachineStatus(
        state_dir=folder.path,
        supervisor_pid=supervisor.pid if supervisor else None,
        is_orphaned=supervisor is None and folder.supervisor_pid_file.exists(),
        parts=tuple(_part_status(name, folder, entries.get(name, {}), facts) for name in PROGRAMS),
    )


# Output ----------------------------------------------------------------------------------------------------------


def status_text(machine: MachineStatus) -> str:
    """The status as a table for a person, with the errors in whole sentences below."""
    table = PrettyTable(["part", "health", "since", "details"])
    table.set_style(TableStyle.PLAIN_COLUMNS)
    table.align = "l"
    table.right_padding_width = 2
    for part in machine.parts:
        table.add_row([part.name, part.health, _since(part.since), _details(part)])
    rows = "\n".join(line.rstrip() for line in table.get_string().splitlines())
    blocks = [headline(machine), rows]
    errors = [line for part in machine.parts for line in _error_lines(part)]
    return "\n\n".join([*blocks, "\n".join(errors)] if errors else blocks)


def status_json(machine: MachineStatus) -> str:
    """The status as JSON. docs/guide/user-guide.md lists the keys, which are stable."""
    return json.dumps(
        {
            "state_dir": str(machine.state_dir),
            "supervisor_pid": machine.supervisor_pid,
            "message": headline(machine),
            "parts": [
                {
                    "name": part.name,
                    "health": part.health,
                    "state": part.state,
                    "pid": part.pid,
                    "since": part.since or None,
                    "restarts": part.restarts,
                    "listens": part.listens or None,
                    "progress": part.progress or None,
                    "figures": dict(part.figures),
                    "errors": list(part.errors),
                    "notes": list(part.notes),
                }
                for part in machine.parts
            ],
        },
        indent=2,
    )


def headline(machine: MachineStatus) -> str:
    """A sentence that states whether openimds is up, and the command that helps if it is not."""
    folder = StateDir(machine.state_dir)
    up, down = f"`{folder.command('up --detach')}`", f"`{folder.command('down')}`"
    running = sum(part.pid is not None for part in machine.parts)
    if machine.supervisor_pid:
        return f"openimds is up in {folder.path} (supervisor: {machine.supervisor_pid})"
    if running:
        return (
            f"the supervisor is dead: {running} of {len(machine.parts)} parts run unsupervised in {folder.path}, and a "
            f"part that dies is not restarted. {up} adopts the running parts and starts the others without an "
            f"interruption; {down} stops and removes everything"
        )
    if machine.is_orphaned:
        return (
            f"nothing is up in {folder.path}, and the last run did not end with `down`: the supervisor was killed, or "
            f"the machine was rebooted. {up} starts everything from the stored state; {down} removes the remains"
        )
    if not folder.path.exists():
        return f"nothing is up in {folder.path}: the folder does not exist. {up} creates it and starts everything"
    return f"nothing is up in {folder.path}. {up} starts everything"


def _details(part: PartStatus) -> str:
    """`2 networks, 1 error`; `120 of 200 networks` during the start; the address of an API."""
    if part.progress:
        return part.progress
    figures = dict(part.figures)
    wanted, rate = figures.pop("listeners_wanted", None), figures.pop("requests_per_second", None)
    words = [part.listens] if part.listens.startswith("http") and part.pid is not None else []
    for name, count in figures.items():
        of = f" of {wanted:g}" if name == "listeners" and wanted is not None else ""
        words.append(f"{count:g}{of} {name.removesuffix('s') if count == 1 and not of else name}")
    if rate is not None:
        words.append(f"{rate:.1f} requests/s")
    if part.restarts:
        words.append(f"{part.restarts} restart{'' if part.restarts == 1 else 's'}")
    if part.errors:
        words.append(f"{len(part.errors)} error{'' if len(part.errors) == 1 else 's'}, see below")
    return ", ".join(words) or "-"


def _error_lines(part: PartStatus) -> Iterator[str]:
    """`dhcp-agent: network 1f0d…: cannot listen on …`"""
    for error in part.errors[:SHOWN_ERRORS]:
        yield f"{part.name}: {error}"
    if len(part.errors) > SHOWN_ERRORS:
        yield f"{part.name}: and {len(part.errors) - SHOWN_ERRORS} more errors"
    for note in part.notes:
        yield f"{part.name}: note: {note}"


def _since(since: str) -> str:
    """`2026-05-01T10:00:00Z` → `5 min ago`"""
    age_seconds = _age_seconds(since)
    if age_seconds == math.inf:
        return "-"
    seconds = int(age_seconds)
    if seconds < 60:
        return f"{seconds} s ago"
    if seconds < 3600:
        return f"{seconds // 60} min ago"
    if seconds < 48 * 3600:
        return f"{seconds // 3600} h {seconds % 3600 // 60} min ago"
    return f"{seconds // 86400} days ago"


def _age_seconds(since: str) -> float:
    """Returns infinity if the time is unknown."""
    try:
        return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(since)).total_seconds())
    except ValueError:
        return math.inf


# The facts of a part ---------------------------------------------------------------------------------------------


def _part_status(name: str, folder: StateDir, entry: Mapping[str, Any], facts: _StoreFacts) -> PartStatus:
    process = identity.read_pid_file(folder.pid_file(name))
    state = str(entry.get("state", "not started"))
    if process is None and state in ("running", "starting"):
        state = "dead"
    heartbeat = facts.heartbeats.get(name) if state == "running" else None
    uptime_seconds = _age_seconds(str(entry.get("since", "")))
    # A heartbeat from before the start of the part says nothing about it.
    reported = heartbeat.facts if heartbeat and heartbeat.age_seconds <= uptime_seconds else {}
    errors = (
        *_exit_errors(state, entry, folder.log_file(name)),
        *(
            [f"no heartbeat for {heartbeat.age_seconds:.0f} s"]
            if heartbeat and heartbeat.is_late(uptime_seconds)
            else []
        ),
        *_reported_failures(reported),
    )
    return PartStatus(
        name=name,
        health=_health(state, has_errors=bool(errors)),
        state=state,
        pid=process.pid if process else None,
        since=str(entry.get("since", "")),
        restarts=int(entry.get("restarts", 0)),
        listens=str(entry.get("listens", "")).removeprefix("-"),
        progress=str(entry.get("said", "")) if state == "starting" else "",
        figures=facts.counts if name == "control-api" and state == "running" else _figures(reported),
        errors=errors,
        notes=tuple(str(note) for note in reported.get("notes") or ()),
    )


def _health(state: str, *, has_errors: bool) -> str:
    if state == "running":
        return "degraded" if has_errors else "ok"
    return {"starting": "starting", "waiting": "down", "dead": "down"}.get(state, "stopped")


def _figures(reported: Mapping[str, Any]) -> dict[str, float]:
    return {
        "instances" if name == "servers" else name: fact
        for name in FACTS
        if isinstance(fact := reported.get(name), int | float)
    }


def _exit_errors(state: str, entry: Mapping[str, Any], log_file: Path) -> Iterator[str]:
    is_repeated = state == "starting" and entry.get("last_exit", "") not in ("", "exit code 0")
    if state in ("waiting", "dead") or is_repeated:
        reason = entry.get("last_exit") or "the process is gone"
        error = _startup_error(log_file)
        yield f"{reason}: {error}" if error else f"{reason}; see {log_file}"


def _reported_failures(facts: Mapping[str, Any]) -> Iterator[str]:
    """`network 1f0d…: cannot listen on …`"""
    if facts.get("suspended"):
        yield str(facts["suspended"])
    kind = next((kind for name, kind in KINDS.items() if name in facts), "resource")
    failures = facts.get("failures") or {}
    for resource_id in sorted(failures):
        yield f"{kind} {resource_id}: {failures[resource_id]}"
    listen_failures = facts.get("listen_failures") or {}
    for tag in sorted(listen_failures):
        yield f"{tag.replace(':', ' ', 1)}: {listen_failures[tag]}"


def _startup_error(log_file: Path) -> str:
    """The message of a failed start, from the last line of the log. Empty if that line is no such message."""
    try:
        with log_file.open("rb") as log:
            log.seek(0, 2)
            log.seek(max(0, log.tell() - LOG_TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return last.removeprefix(STARTUP_ERROR_PREFIX) if last.startswith(STARTUP_ERROR_PREFIX) else ""


def _store_facts(folder: StateDir) -> _StoreFacts:
    """Reads resource counts and heartbeats. Returns no facts if the store cannot be read."""
    files = [str(folder.etc / file) for file in ("nova.conf", "up.conf") if (folder.etc / file).exists()]
    if not files:
        return _StoreFacts()
    try:
        config = load_control_api(files)
        store = Store(config.database_url)
        try:
            return _read_facts(store, config)
        finally:
            store.close()
    except (ConfigError, OpenimdsError, sa.exc.SQLAlchemyError):
        return _StoreFacts()


def _read_facts(store: Store, config: ControlApiConfig) -> _StoreFacts:
    now = utc_now()
    with store.read() as session:
        counts = {
            name: session.scalar(sa.select(sa.func.count()).select_from(model)) or 0 for name, model in COUNTED.items()
        }
        heartbeats = {}
        for agent in session.scalars(sa.select(Agent).order_by(Agent.heartbeat_at)):
            age = max(0.0, (now - agent.heartbeat_at).total_seconds())
            name = agent.binary.removeprefix("openimds-")
            heartbeats[name] = _Heartbeat(age, config.agent_down_seconds, dict(agent.configurations))
    return _StoreFacts(counts, heartbeats)


# Restart ---------------------------------------------------------------------------------------------------------


def restart_part(state_dir: Path, name: str, echo: Callable[[str], None]) -> None:
    """Stops the part and waits until the supervisor has started it again. Raises StartupError."""
    folder = StateDir(state_dir.absolute())
    if identity.read_pid_file(folder.supervisor_pid_file) is None:
        raise StartupError(
            f"no supervisor runs in {folder.path}, so {name} would not be restarted: `{folder.command('up --detach')}` "
            "starts it, and adopts the running parts"
        )
    previous = identity.read_pid_file(folder.pid_file(name))
    if previous is None:
        raise StartupError(f"{name} does not run now; see `{folder.command('status')}`")
    _check_configuration(name, previous.argv())
    with folder.reporting_errors():
        folder.restart_request(name).touch()
    previous.send(signal.SIGTERM)
    started = time.monotonic()
    entry = _read_entry(name, folder)
    while time.monotonic() < max(started + RESTART_TIMEOUT_SECONDS, _start_deadline(entry, previous.pid)):
        entry = _read_entry(name, folder)
        if entry.get("pid") not in (None, previous.pid) and entry.get("state") == "running":
            echo(f"{name} runs again, as process {entry['pid']}")
            return
        is_exited = entry.get("state") == "waiting" and not previous.is_alive()
        if is_exited and entry.get("last_exit", "").endswith("code 1"):
            log_file = folder.log_file(name)
            raise StartupError(f"{name} did not start again: {_startup_error(log_file) or f'see {log_file}'}")
        time.sleep(POLL_SECONDS)
    progress = f" ({entry['said']})" if entry.get("said") else ""
    waited = f"{time.monotonic() - started:.0f} s"
    raise StartupError(f"{name} is not ready after {waited}{progress}: see {folder.log_file(name)}")


def _check_configuration(name: str, argv: Sequence[str]) -> None:
    """Raises StartupError if a new process could not start with the files of this command line."""
    files = [value for option, value in pairwise(argv) if option == "--config-file"]
    if not files:
        return
    try:
        loaded = PROGRAMS[name].load(files)
        problems = [found.sentence for found in validate_policy((), getattr(loaded, "policy", None))]
    except ConfigError as error:
        problems = list(error.problems)
    if problems:
        raise StartupError("\n".join([f"{name} is not restarted and runs on: its configuration is invalid", *problems]))


def _start_deadline(entry: Mapping[str, Any], previous_pid: int) -> float:
    """The time.monotonic until which a starting part has extended its start. 0 if it is not starting."""
    is_starting = entry.get("state") == "starting" and entry.get("pid") != previous_pid
    return float(entry.get("ready_by", 0)) if is_starting else 0.0


def _read_entry(name: str, folder: StateDir) -> Mapping[str, Any]:
    """The entry of a part in `status.json`."""
    empty: dict[str, Any] = {}
    return next((part for part in folder.read_status().get("parts", []) if part.get("name") == name), empty)
