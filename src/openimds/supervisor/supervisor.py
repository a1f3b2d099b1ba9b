"""Log files of bounded size: one that has grown beyond its limit becomes `<name>.1`, in place of an rotated_path one.

Who writes keeps its descriptor (O_APPEND), so the file is copied and emptied under it, as with logrotate's copytruncate:
that works with several writers, with parts that an earlier supervisor started, and whatever they write. A line written in
the few microseconds between the last look and the emptying is lost.

The parts' processes: started with their kept sockets, watched, and started again after they died.

What the parts tell their supervisor: how far their start is, that they are ready, which sockets it is to keep.

Runs the parts of one machine: starts them in order, restarts what dies, stops all of them.

1. One thread, one loop; it waits for the ends of processes (pidfd), for their READY=1, for signals and for timers.
2. Parts are sessions of their own and write to their own log: a supervisor that is killed leaves them running, and
   the next one adopts them by their pid files, if they were started with the same configuration.
3. It keeps the sockets that parts ask it to keep (socket_store.py): a part that is started again gets them back.
"""

from __future__ import annotations

import math
import os
import selectors
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog

from openimds.linux.process import identity
from openimds.linux.process.identity import Process
from openimds.runtime.lifecycle import StartupError
from openimds.runtime.rlimits import raise_nofile
from openimds.supervisor import service_spec
from openimds.supervisor.notify_socket import Message, NotifySocket
from openimds.supervisor.service import Service, ServiceRegistry, exit_reason, last_log_line, now
from openimds.supervisor.service_spec import ServiceSpec
from openimds.supervisor.spawn import Child, SpawnSpec, spawn
from openimds.supervisor.state_dir import StateDir

log = structlog.get_logger(__name__)

CHUNK_BYTES = 1024 * 1024


def rotated_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.1")


def rotate_log(path: Path, limit_bytes: int) -> bool:
    """Whether it was too large, and is empty now. What cannot be copied (a full disk) is given up for the bound."""
    try:
        with path.open("r+b") as file:
            if os.fstat(file.fileno()).st_size <= limit_bytes:
                return False
            kept = _keep(path, file.fileno())
            os.ftruncate(file.fileno(), 0)
    except OSError:
        return False  # it is not there, or cannot be written: its writer cannot either
    if not kept:
        log.warning("a log file was emptied: there was no room to keep it", file=str(path))
    return True


def _keep(path: Path, descriptor: int) -> bool:
    """All that is in the file, as the rotated_path one."""
    draft = path.with_name(f".{path.name}.new")
    try:
        with draft.open("wb") as copy:
            os.fchmod(copy.fileno(), os.fstat(descriptor).st_mode & 0o777)
            while chunk := os.pread(descriptor, CHUNK_BYTES, copy.tell()):
                copy.write(chunk)
        draft.replace(rotated_path(path))
    except OSError:
        draft.unlink(missing_ok=True)
        rotated_path(path).unlink(missing_ok=True)  # gives room
        return False
    return True


class ProcessTable:
    """Of one loop: it waits for their ends at `selector`, and calls what it finds there."""

    def __init__(
        self, roster: ServiceRegistry, selector: selectors.BaseSelector, *, notify_path: Path, hear: Callable[[], None]
    ) -> None:
        """`hear`: take in what parts said until now."""
        self._roster = roster
        self._selector = selector
        self._notify_path = notify_path
        self._hear = hear
        self._open_files = raise_nofile()

    def start(self, each: Service) -> None:
        """Raises CannotStartError."""
        each.restart_at = None
        each.digest = service_spec.digest(each.part)
        each.child = self._spawn(each)
        process = identity.find(each.child.pid)
        if process is None:
            # It ended before it could be looked at.
            each.process = None
            self._died(each)
            return
        with self._roster.folder.problems_told():
            identity.write_pid_file(process, each.part.pid_file)
        self.watch(each, process, state="starting", since=now())

    def watch(self, each: Service, process: Process, *, state: str, since: str) -> None:
        """It is this process from now on, until that ends."""
        each.begin(process, state=state, since=since)
        each.pidfd = os.pidfd_open(process.pid)
        self._selector.register(each.pidfd, selectors.EVENT_READ, lambda: self._died(each))
        self._roster.note()

    def reap(self, each: Service) -> None:
        """Its process has ended: how."""
        if each.pidfd is not None:
            self._selector.unregister(each.pidfd)
            os.close(each.pidfd)
        each.pidfd, each.process = None, None
        each.last_exit = exit_reason(each.child)
        each.child = None

    def seconds_to_next_restart(self) -> float:
        """Infinite: none is due."""
        due = [each.restart_at for each in self._roster if each.restart_at is not None]
        return max(0.0, min(due, default=math.inf) - time.monotonic())

    def due(self) -> Iterator[Service]:
        """Those whose time to be started again has come."""
        return (each for each in self._roster if each.restart_at is not None and each.restart_at <= time.monotonic())

    def restart(self, each: Service) -> None:
        """What cannot be started is tried again later."""
        each.restarts += 1
        try:
            self.start(each)
        except StartupError as error:
            each.deaths = each.deaths.after_one_more(0)
            each.restart_at = time.monotonic() + each.deaths.delay_seconds
            log.error("a part cannot be started", part=each.part.name, error=str(error))  # noqa: TRY400

    def _spawn(self, each: Service) -> Child:
        with self._roster.folder.problems_told():
            output = each.part.log_file.open("ab")
        with output:
            what = SpawnSpec(
                argv=each.part.argv,
                environment=os.environ | {"NOTIFY_SOCKET": str(self._notify_path)},
                output=output.fileno(),
                open_files=self._open_files,
            )
            try:
                return spawn(what, each.sockets)
            except OSError as error:
                raise StartupError(f"{each.part.name} cannot be started: {error.strerror}") from error

    def _died(self, each: Service) -> None:
        self._hear()  # what it said before it ended
        pid = each.process.pid if each.process else None
        self.reap(each)
        request = self._roster.folder.restart_request(each.part.name)
        asked = request.exists()
        request.unlink(missing_ok=True)
        each.state = "waiting"
        each.since = now()
        if asked:
            each.restart_at = time.monotonic()
            log.info("a part is started again, as asked", part=each.part.name, pid=pid)
        else:
            each.deaths = each.deaths.after_one_more(time.monotonic() - each.started_at)
            each.restart_at = time.monotonic() + each.deaths.delay_seconds
            log.error(
                "a part died" if self._roster.is_starting else "a part died and will be started again",
                part=each.part.name, pid=pid, how=each.last_exit, in_seconds=each.deaths.delay_seconds,
            )  # fmt: skip
        self._roster.note()


class NotifyReceiver:
    """Of one loop: `hear` when there is something to read."""

    def __init__(self, roster: ServiceRegistry, say: Callable[[str], None]) -> None:
        """`say` is told how far a part is while somebody waits for it."""
        self._roster = roster
        self._say = say
        with roster.folder.problems_told():
            self.socket = NotifySocket(roster.folder.notify_socket)

    def hear(self) -> None:
        """All that was said until now."""
        changed = False
        for message in self.socket.messages():
            each = self._roster.with_pid(message.pid)
            if each is None:
                message.close()
            else:
                changed |= self._apply(message, each)
        if changed:
            self._roster.note()

    def close(self) -> None:
        self.socket.close()

    def _apply(self, message: Message, each: Service) -> bool:
        """Whether it is news."""
        before = len(each.sockets)
        each.sockets.apply(message)
        changed = len(each.sockets) != before
        if each.state != "starting":
            return changed
        said = each.said
        changed |= each.hear_of_start(message.fields)
        if each.said and each.said != said:
            self._tell_progress(each)
        if message.fields.get("READY") != "1":
            return changed
        each.state = "running"
        log.info("a part is ready", part=each.part.name, pid=message.pid)
        return True

    def _tell_progress(self, each: Service) -> None:
        if self._roster.is_starting:
            self._say(f"{each.part.name}: {each.said}")
        else:  # whom to say it to may be gone
            log.info("a part's start goes on", part=each.part.name, said=each.said)


STOP_GRACE_SECONDS = 10
LOG_BYTES = 32 * 1024 * 1024
"""A log file that is larger becomes the rotated_path one: each part has two of them at most."""
LOG_LOOK_SECONDS = 5.0
RENEWAL_SECONDS = 5.0
"""How long parts of an earlier supervisor, before they are replaced, are given to tell this one of their sockets."""


class Supervisor:
    def __init__(
        self, planned: Sequence[ServiceSpec], folder: StateDir, say: Callable[[str], None] = lambda _line: None
    ) -> None:
        """`say` is told how far a part is in `start`: `dhcp-agent: 120 of 200 networks`."""
        self._folder = folder
        self._roster = ServiceRegistry(planned, folder)
        self._selector = selectors.DefaultSelector()
        self._hearing = NotifyReceiver(self._roster, say)
        self._selector.register(self._hearing.socket, selectors.EVENT_READ, self._hearing.hear)
        self._processes = ProcessTable(
            self._roster, self._selector, notify_path=folder.notify_socket, hear=self._hearing.hear
        )
        self._stop_asked = False
        self._logs_due = 0.0

    def adopt(self) -> tuple[str, ...]:
        """Take over parts that an earlier supervisor left running with the same configuration; their names.

        Ones that it left with another configuration, or not ready, are stopped.
        """
        before = {entry.get("name"): entry for entry in self._folder.read_status().get("parts", [])}
        for each in self._roster:
            process = identity.read_pid_file(each.part.pid_file)
            if process is None:
                continue
            known = before.get(each.part.name, {})
            each.digest = service_spec.digest(each.part)
            same = (known.get("pid"), known.get("state"), known.get("digest"))
            if same == (process.pid, "running", each.digest) and process.argv() == each.part.argv:
                self._processes.watch(each, process, state="running", since=str(known.get("since", "")))
            else:
                log.info("a part of an earlier start is replaced", part=each.part.name, pid=process.pid)
                each.process = process
                self._hear_sockets(each, int(known.get("kept_sockets", 0)))
                each.process = None
                identity.terminate([process], STOP_GRACE_SECONDS)
        return tuple(each.part.name for each in self._roster if each.state == "running")

    def start(self, stages: Sequence[Sequence[str]]) -> None:
        """Start what does not run yet, stage by stage. Raises CannotStartError when a part does not become ready."""
        self._roster.is_starting = True
        for stage in stages:
            members = [self._roster[name] for name in stage]
            for each in members:
                if each.state != "running":
                    self._processes.start(each)
            self._until_ready(members)
            if self._stop_asked:
                return
        self._roster.is_starting = False

    def run(self) -> None:
        """Keep all parts running until somebody asks to stop."""
        while not self._stop_asked:
            self._turn(min(self._processes.seconds_to_next_restart(), max(0.0, self._logs_due - time.monotonic())))
            for each in self._processes.due():
                if not self._stop_asked:
                    self._processes.restart(each)
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
            members = [self._roster[name] for name in stage]
            alive = [each for each in members if each.process]
            killed = identity.terminate([each.process for each in alive if each.process], STOP_GRACE_SECONDS)
            for each in alive:
                if each.process in killed:
                    log.warning("a part had to be killed: it did not stop in time", part=each.part.name)
                self._processes.reap(each)
                each.part.pid_file.unlink(missing_ok=True)
            for each in members:
                each.sockets.close()
                each.state = "stopped"
        self._roster.note()

    def close(self) -> None:
        for each in self._roster:
            each.sockets.close()
        self._hearing.close()
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
        """Of each part what `Supervised.report` gives."""
        return self._roster.report()

    # One turn of the loop --------------------------------------------------------------------------------------

    def _turn(self, timeout_seconds: float | None) -> None:
        for key, _ in self._selector.select(timeout_seconds):
            handle: Callable[[], object] = key.data
            handle()

    def _until_ready(self, members: Sequence[Service]) -> None:
        while not self._stop_asked:
            starting = [each for each in members if each.state == "starting"]
            if not starting:
                break
            late = [each for each in starting if each.ready_by <= time.monotonic()]
            if late:
                names = ", ".join(each.shown for each in late)
                seconds = late[0].ready_by - late[0].started_at
                raise StartupError(f"{names}: not ready within {_whole(seconds)} s; {last_log_line(late[0].part)}")
            self._turn(min(each.ready_by for each in starting) - time.monotonic())
        for each in members:
            if each.state == "waiting":
                raise StartupError(f"{each.part.name} did not start ({each.last_exit}): {last_log_line(each.part)}")

    def _hear_sockets(self, each: Service, count: int) -> None:
        """Wait until a running part has told of so many sockets; one that stopped telling is not waited for long."""
        deadline = time.monotonic() + RENEWAL_SECONDS
        while len(each.sockets) < count and (left := deadline - time.monotonic()) > 0:
            self._turn(left)

    def _bound_logs(self) -> None:
        if self._logs_due > time.monotonic():
            return
        self._logs_due = time.monotonic() + LOG_LOOK_SECONDS
        for path in (self._folder.log_file("supervisor"), *(each.part.log_file for each in self._roster)):
            rotate_log(path, LOG_BYTES)


def _whole(seconds: float) -> str:
    """`60`, `0.3`"""
    return f"{seconds:.0f}" if seconds >= 1 else f"{seconds:.1f}"
