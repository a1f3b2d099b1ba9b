"""Runs the parts of one machine: starts them in order, restarts what dies, stops all of them.

1. One thread, one loop; it waits for the ends of processes (pidfd), for their READY=1, for signals and for timers.
2. Parts are sessions of their own and write to their own log: a supervisor that is killed leaves them running, and
   the next one adopts them by their pid files, if they were started with the same configuration.
3. It keeps the sockets that parts ask it to keep (socket_store.py): a part that is started again gets them back.
"""

from __future__ import annotations

import contextlib
import math
import os
import selectors
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import structlog

from openimds.daemons import log_files, parts, processes
from openimds.daemons.parts import Deaths, Part
from openimds.daemons.processes import Process
from openimds.daemons.running import CannotStartError
from openimds.daemons.socket_store import Message, NotifySocket, SocketStore, allow_many_descriptors
from openimds.daemons.starting import Child, Start, start
from openimds.daemons.state_folder import StateFolder

log = structlog.get_logger(__name__)

READY_TIMEOUT_SECONDS = 60
"""For a part that does not ask for more (EXTEND_TIMEOUT_USEC, sd_notify(3))."""
MOST_EXTENSION_SECONDS = 3600
STOP_GRACE_SECONDS = 10
LOG_BYTES = 32 * 1024 * 1024
"""A log file that is larger becomes the older one: each part has two of them at most."""
LOG_LOOK_SECONDS = 5.0
RENEWAL_SECONDS = 5.0
"""How long parts of an earlier supervisor, before they are replaced, are given to tell this one of their sockets."""


@dataclass(slots=True)
class _Supervised:
    """A part, and what becomes of it."""

    part: Part
    state: str = "not started"
    """`starting`, `running`, `waiting` (to be started again), `stopped`."""
    process: Process | None = None
    child: Child | None = None
    """None as well for one that an earlier supervisor started."""
    pidfd: int | None = None
    since: str = ""
    started_at: float = 0.0
    restart_at: float | None = None
    deaths: Deaths = field(default_factory=Deaths)
    restarts: int = 0
    last_exit: str = ""
    digest: str = ""
    """Of what it was started with."""
    said: str = ""
    """STATUS= of it, in its own words."""
    ready_by: float = 0.0
    """When a start that has not ended has failed; time.monotonic."""
    sockets: SocketStore = field(default_factory=SocketStore)


class Supervisor:
    def __init__(
        self, planned: Sequence[Part], folder: StateFolder, say: Callable[[str], None] = lambda _line: None
    ) -> None:
        """`say` is told how far a part is in `start`: `dhcp-agent: 120 of 200 networks`."""
        self._folder = folder
        self._say = say
        self._supervised = {part.name: _Supervised(part) for part in planned}
        self._selector = selectors.DefaultSelector()
        self._open_files = allow_many_descriptors()
        with folder.problems_told():
            self._notify = NotifySocket(folder.notify_socket)
        self._selector.register(self._notify, selectors.EVENT_READ, self._heard)
        self._stop_asked = False
        self._starting = False
        self._started_at = _now()
        self._logs_due = 0.0

    def adopt(self) -> tuple[str, ...]:
        """Take over parts that an earlier supervisor left running with the same configuration; their names.

        Ones that it left with another configuration, or not ready, are stopped.
        """
        before = {entry.get("name"): entry for entry in self._folder.read_status().get("parts", [])}
        for each in self._supervised.values():
            process = processes.noted(each.part.pid_file)
            if process is None:
                continue
            known = before.get(each.part.name, {})
            each.digest = parts.digest(each.part)
            same = (known.get("pid"), known.get("state"), known.get("digest"))
            if same == (process.pid, "running", each.digest) and process.argv() == each.part.argv:
                self._watch(each, process, state="running", since=str(known.get("since", "")))
            else:
                log.info("a part of an earlier start is replaced", part=each.part.name, pid=process.pid)
                each.process = process
                self._hear_sockets(each, int(known.get("kept_sockets", 0)))
                each.process = None
                processes.end([process], STOP_GRACE_SECONDS)
        return tuple(each.part.name for each in self._supervised.values() if each.state == "running")

    def start(self, stages: Sequence[Sequence[str]]) -> None:
        """Start what does not run yet, stage by stage. Raises CannotStartError when a part does not become ready."""
        self._starting = True
        for stage in stages:
            members = [self._supervised[name] for name in stage]
            for each in members:
                if each.state != "running":
                    self._start(each)
            self._until_ready(members)
            if self._stop_asked:
                return
        self._starting = False

    def run(self) -> None:
        """Keep all parts running until somebody asks to stop."""
        while not self._stop_asked:
            self._turn(min(self._seconds_to_next_restart(), max(0.0, self._logs_due - time.monotonic())))
            self._restart_due()
            self._bound_logs()

    def ask_to_stop(self) -> None:
        """From a signal handler."""
        self._stop_asked = True

    @property
    def stop_asked(self) -> bool:
        return self._stop_asked

    def stop(self, stages: Sequence[Sequence[str]]) -> None:
        """Stop all parts, stage by stage from the last."""
        for stage in reversed(stages):
            members = [self._supervised[name] for name in stage]
            alive = [each for each in members if each.process]
            killed = processes.end([each.process for each in alive if each.process], STOP_GRACE_SECONDS)
            for each in alive:
                if each.process in killed:
                    log.warning("a part had to be killed: it did not stop in time", part=each.part.name)
                self._unwatch(each)
                each.last_exit = _exit_reason(each.child)
                each.child = None
                each.part.pid_file.unlink(missing_ok=True)
            for each in members:
                each.sockets.close()
                each.state = "stopped"
        self._note_status()

    def close(self) -> None:
        for each in self._supervised.values():
            each.sockets.close()
        self._notify.close()
        self._selector.close()

    @contextmanager
    def heeding_signals(self) -> Iterator[None]:
        """SIGINT, SIGTERM and SIGHUP (the terminal went away) ask to stop."""
        reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        handled = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, lambda *_: self.ask_to_stop()) for number in handled}
        wakeup = signal.set_wakeup_fd(writing)
        self._selector.register(reading, selectors.EVENT_READ, lambda: os.read(reading, 64))
        try:
            yield
        finally:
            self._selector.unregister(reading)
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(reading)
            os.close(writing)

    def report(self) -> list[dict[str, Any]]:
        """Each part's name, pid, state, since, restarts, last exit, log file, where it listens, how many sockets are kept,
        what it says of its start, and until when (CLOCK_MONOTONIC, in seconds) that may take.
        """
        return [
            {
                "name": each.part.name,
                "pid": each.process.pid if each.process else None,
                "state": each.state,
                "since": each.since,
                "restarts": each.restarts,
                "last_exit": each.last_exit,
                "log": str(each.part.log_file),
                "listens": each.part.listens,
                "kept_sockets": len(each.sockets),
                "digest": each.digest,
                "said": each.said,
                "ready_by": each.ready_by,
            }
            for each in self._supervised.values()
        ]

    # One turn of the loop --------------------------------------------------------------------------------------

    def _turn(self, timeout_seconds: float | None) -> None:
        for key, _ in self._selector.select(timeout_seconds):
            handle: Callable[[], object] = key.data
            handle()

    def _until_ready(self, members: Sequence[_Supervised]) -> None:
        while not self._stop_asked:
            starting = [each for each in members if each.state == "starting"]
            if not starting:
                break
            late = [each for each in starting if each.ready_by <= time.monotonic()]
            if late:
                names = ", ".join(_with_said(each) for each in late)
                seconds = late[0].ready_by - late[0].started_at
                raise CannotStartError(f"{names}: not ready within {_whole(seconds)} s; {_hint(late[0].part)}")
            self._turn(min(each.ready_by for each in starting) - time.monotonic())
        for each in members:
            if each.state == "waiting":
                raise CannotStartError(f"{each.part.name} did not start ({each.last_exit}): {_hint(each.part)}")

    def _heard(self) -> None:
        changed = False
        for message in self._notify.messages():
            each = next((each for each in self._supervised.values() if _is_from(each, message)), None)
            if each is None:
                message.close()
                continue
            before = len(each.sockets)
            each.sockets.apply(message)
            changed |= len(each.sockets) != before
            if each.state == "starting":
                changed |= self._hear_of_start(each, message.fields)
            if message.fields.get("READY") == "1" and each.state == "starting":
                each.state = "running"
                changed = True
                log.info("a part is ready", part=each.part.name, pid=message.pid)
        if changed:
            self._note_status()

    def _hear_of_start(self, each: _Supervised, fields: Mapping[str, str]) -> bool:
        """How far it is, and how much longer it may take; whether that is news."""
        said = fields.get("STATUS", each.said)
        extension = fields.get("EXTEND_TIMEOUT_USEC", "")
        before = (each.said, each.ready_by)
        if extension.isascii() and extension.isdigit():
            asked = time.monotonic() + min(int(extension) / 1_000_000, MOST_EXTENSION_SECONDS)
            each.ready_by = max(each.started_at + READY_TIMEOUT_SECONDS, asked)
        if said and said != each.said:
            self._tell_progress(each, said)
        each.said = said
        return before != (each.said, each.ready_by)

    def _tell_progress(self, each: _Supervised, said: str) -> None:
        if self._starting:
            self._say(f"{each.part.name}: {said}")
        else:  # whom to say it to may be gone
            log.info("a part's start goes on", part=each.part.name, said=said)

    def _hear_sockets(self, each: _Supervised, count: int) -> None:
        """Wait until a running part has told of so many sockets; one that stopped telling is not waited for long."""
        deadline = time.monotonic() + RENEWAL_SECONDS
        while len(each.sockets) < count and (left := deadline - time.monotonic()) > 0:
            self._turn(left)

    # One part --------------------------------------------------------------------------------------------------

    def _start(self, each: _Supervised) -> None:
        each.restart_at = None
        each.digest = parts.digest(each.part)
        each.child = self._spawn(each)
        process = processes.find(each.child.pid)
        if process is None:
            # It ended before it could be looked at.
            each.process = None
            self._died(each)
            return
        with self._folder.problems_told():
            processes.note(process, each.part.pid_file)
        self._watch(each, process, state="starting", since=_now())

    def _spawn(self, each: _Supervised) -> Child:
        with self._folder.problems_told():
            output = each.part.log_file.open("ab")
        with output:
            what = Start(
                argv=each.part.argv,
                environment=os.environ | {"NOTIFY_SOCKET": str(self._notify.path)},
                output=output.fileno(),
                open_files=self._open_files,
            )
            try:
                return start(what, each.sockets)
            except OSError as error:
                raise CannotStartError(f"{each.part.name} cannot be started: {error.strerror}") from error

    def _watch(self, each: _Supervised, process: Process, *, state: str, since: str) -> None:
        each.process, each.state, each.since, each.started_at = process, state, since, time.monotonic()
        each.said, each.ready_by = "", each.started_at + READY_TIMEOUT_SECONDS
        each.pidfd = os.pidfd_open(process.pid)
        self._selector.register(each.pidfd, selectors.EVENT_READ, lambda: self._died(each))
        self._note_status()

    def _unwatch(self, each: _Supervised) -> None:
        if each.pidfd is not None:
            self._selector.unregister(each.pidfd)
            os.close(each.pidfd)
        each.pidfd, each.process = None, None

    def _died(self, each: _Supervised) -> None:
        self._heard()  # what it said before it ended
        pid = each.process.pid if each.process else None
        self._unwatch(each)
        each.last_exit = _exit_reason(each.child)
        each.child = None
        request = self._folder.restart_request(each.part.name)
        asked = request.exists()
        request.unlink(missing_ok=True)
        each.state = "waiting"
        each.since = _now()
        if asked:
            each.restart_at = time.monotonic()
            log.info("a part is started again, as asked", part=each.part.name, pid=pid)
        else:
            each.deaths = each.deaths.after_one_more(time.monotonic() - each.started_at)
            each.restart_at = time.monotonic() + each.deaths.delay_seconds
            log.error(
                "a part died" if self._starting else "a part died and will be started again",
                part=each.part.name, pid=pid, how=each.last_exit, in_seconds=each.deaths.delay_seconds,
            )  # fmt: skip
        self._note_status()

    def _bound_logs(self) -> None:
        if self._logs_due > time.monotonic():
            return
        self._logs_due = time.monotonic() + LOG_LOOK_SECONDS
        for path in (self._folder.log_file("supervisor"), *(each.part.log_file for each in self._supervised.values())):
            log_files.bound(path, LOG_BYTES)

    def _seconds_to_next_restart(self) -> float:
        """Infinite: none is due."""
        due = [each.restart_at for each in self._supervised.values() if each.restart_at is not None]
        return max(0.0, min(due, default=math.inf) - time.monotonic())

    def _restart_due(self) -> None:
        for each in self._supervised.values():
            if each.restart_at is not None and each.restart_at <= time.monotonic() and not self._stop_asked:
                each.restarts += 1
                try:
                    self._start(each)
                except CannotStartError as error:
                    each.deaths = each.deaths.after_one_more(0)
                    each.restart_at = time.monotonic() + each.deaths.delay_seconds
                    log.error("a part cannot be started", part=each.part.name, error=str(error))  # noqa: TRY400

    def _note_status(self) -> None:
        status = {"supervisor": os.getpid(), "since": self._started_at, "parts": self.report()}
        # A full disk must not end the supervision; `status` then shows what was known before.
        with contextlib.suppress(OSError):
            self._folder.write_status(status)


def _is_from(each: _Supervised, message: Message) -> bool:
    return each.process is not None and each.process.pid == message.pid


def _with_said(each: _Supervised) -> str:
    """`dhcp-agent (120 of 200 networks)`"""
    return f"{each.part.name} ({each.said})" if each.said else each.part.name


def _whole(seconds: float) -> str:
    """`60`, `0.3`"""
    return f"{seconds:.0f}" if seconds >= 1 else f"{seconds:.1f}"


def _exit_reason(child: Child | None) -> str:
    """`exit code 1`, `killed by SIGKILL`"""
    if child is None:
        return "ended; an earlier supervisor started it, so how is not known"
    code = child.wait()
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return f"killed by {signal.Signals(-code).name}"
    return f"killed by signal {-code}"


def _hint(part: Part) -> str:
    """The last thing that a part said."""
    try:
        lines = part.log_file.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    said = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
    return f"{said} (all of its log: {part.log_file})"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
