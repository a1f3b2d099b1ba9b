"""The supervisor of the parts of one machine: it starts them in order, restarts dead ones and stops all of them.

1. The supervisor is one thread with one selector loop. It waits for the exit of processes (pidfd), for notifications
   (READY=1), for signals and for timers.
2. Every part is a session of its own and writes to its own log file. Parts survive a supervisor that is killed, and the
   next supervisor adopts them by their PID files if their configuration is unchanged.
3. The supervisor stores listening sockets for the parts (`notify_socket`). A restarted part inherits them.
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
from openimds.supervisor.service import Service, ServiceRegistry, exit_reason, last_log_line, utc_timestamp
from openimds.supervisor.service_spec import ServiceSpec
from openimds.supervisor.spawn import Child, SpawnSpec, spawn
from openimds.supervisor.state_dir import StateDir

STOP_GRACE_SECONDS = 10
LOG_BYTES = 32 * 1024 * 1024
"""The size at which a log file is rotated. Each part has at most two log files."""
LOG_CHECK_SECONDS = 5.0
COPY_BYTES = 1024 * 1024
REREGISTER_SECONDS = 5.0
"""The time for a part of an earlier supervisor to store its sockets again before the part is replaced."""

log = structlog.get_logger(__name__)


class Supervisor:
    def __init__(
        self, specs: Sequence[ServiceSpec], folder: StateDir, echo: Callable[[str], None] = lambda _line: None
    ) -> None:
        """`echo` receives progress lines during `start`, such as `dhcp-agent: 120 of 200 networks`."""
        self._folder = folder
        self._services = ServiceRegistry(specs, folder)
        self._selector = selectors.DefaultSelector()
        self._notifications = NotifyReceiver(self._services, echo)
        self._selector.register(self._notifications.socket, selectors.EVENT_READ, self._notifications.receive)
        self._processes = ProcessTable(
            self._services, self._selector, notify_path=folder.notify_socket, receive=self._notifications.receive
        )
        self._is_stopping = False
        self._next_log_check = 0.0

    def adopt(self) -> tuple[str, ...]:
        """Adopts running parts of an earlier supervisor if their configuration is unchanged, and returns their names.

        Parts that have another configuration or are not ready are stopped.
        """
        entries = {entry.get("name"): entry for entry in self._folder.read_status().get("parts", [])}
        for service in self._services:
            process = identity.read_pid_file(service.spec.pid_file)
            if process is None:
                continue
            entry = entries.get(service.name, {})
            service.digest = service_spec.digest(service.spec)
            found = (entry.get("pid"), entry.get("state"), entry.get("digest"))
            if found == (process.pid, "running", service.digest) and process.argv() == service.spec.argv:
                self._processes.watch(service, process, state="running", since=str(entry.get("since", "")))
            else:
                log.info("part of an earlier start replaced", part=service.name, pid=process.pid)
                service.process = process
                self._wait_for_sockets(service, int(entry.get("kept_sockets", 0)))
                service.process = None
                identity.terminate([process], STOP_GRACE_SECONDS)
        return tuple(service.name for service in self._services if service.state == "running")

    def start(self, stages: Sequence[Sequence[str]]) -> None:
        """Starts the parts that do not run, stage by stage. Raises StartupError if a part does not become ready."""
        self._services.is_starting = True
        for stage in stages:
            members = [self._services[name] for name in stage]
            for service in members:
                if service.state != "running":
                    self._processes.start(service)
            self._wait_ready(members)
            if self._is_stopping:
                return
        self._services.is_starting = False

    def run(self) -> None:
        """Keeps all parts running until `request_stop`."""
        while not self._is_stopping:
            next_check = max(0.0, self._next_log_check - time.monotonic())
            self._poll(min(self._processes.seconds_to_next_restart(), next_check))
            for service in self._processes.due():
                if not self._is_stopping:
                    self._processes.restart(service)
            self._rotate_logs()

    def request_stop(self) -> None:
        """Makes `run` and `start` return. A signal handler may call this method."""
        self._is_stopping = True

    @property
    def is_stopping(self) -> bool:
        return self._is_stopping

    def stop(self, stages: Sequence[Sequence[str]]) -> None:
        """Stops all parts, stage by stage from the last."""
        for stage in reversed(stages):
            members = [self._services[name] for name in stage]
            alive = [service for service in members if service.process]
            killed = identity.terminate([service.process for service in alive if service.process], STOP_GRACE_SECONDS)
            for service in alive:
                if service.process in killed:
                    log.warning("part killed after its stop timeout", part=service.name)
                self._processes.reap(service)
                service.spec.pid_file.unlink(missing_ok=True)
            for service in members:
                service.sockets.close()
                service.state = "stopped"
        self._services.write_status()

    def close(self) -> None:
        for service in self._services:
            service.sockets.close()
        self._notifications.close()
        self._selector.close()

    @contextmanager
    def handling_signals(self) -> Iterator[None]:
        """SIGINT, SIGTERM and SIGHUP (a closed terminal) request a stop while the block runs."""
        read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        handled = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        previous = {number: signal.signal(number, lambda *_: self.request_stop()) for number in handled}
        wakeup = signal.set_wakeup_fd(write_end)
        self._selector.register(read_end, selectors.EVENT_READ, lambda: os.read(read_end, 64))
        try:
            yield
        finally:
            self._selector.unregister(read_end)
            signal.set_wakeup_fd(wakeup)
            for number, handler in previous.items():
                signal.signal(number, handler)
            os.close(read_end)
            os.close(write_end)

    def report(self) -> list[dict[str, Any]]:
        """The `Service.report` of each part."""
        return self._services.report()

    # The loop --------------------------------------------------------------------------------------------------

    def _poll(self, timeout_seconds: float | None) -> None:
        for key, _ in self._selector.select(timeout_seconds):
            handle: Callable[[], object] = key.data
            handle()

    def _wait_ready(self, members: Sequence[Service]) -> None:
        while not self._is_stopping:
            starting = [service for service in members if service.state == "starting"]
            if not starting:
                break
            late = [service for service in starting if service.start_deadline <= time.monotonic()]
            if late:
                names = ", ".join(service.name_and_progress for service in late)
                seconds = late[0].start_deadline - late[0].started_at
                raise StartupError(f"{names}: not ready within {_short(seconds)} s; {last_log_line(late[0].spec)}")
            self._poll(min(service.start_deadline for service in starting) - time.monotonic())
        for service in members:
            if service.state == "waiting":
                raise StartupError(f"{service.name} did not start ({service.last_exit}): {last_log_line(service.spec)}")

    def _wait_for_sockets(self, service: Service, count: int) -> None:
        """Waits until a running part has stored `count` sockets, at most REREGISTER_SECONDS."""
        deadline = time.monotonic() + REREGISTER_SECONDS
        while len(service.sockets) < count and (left := deadline - time.monotonic()) > 0:
            self._poll(left)

    def _rotate_logs(self) -> None:
        if self._next_log_check > time.monotonic():
            return
        self._next_log_check = time.monotonic() + LOG_CHECK_SECONDS
        for path in (self._folder.log_file("supervisor"), *(service.spec.log_file for service in self._services)):
            rotate_log(path, LOG_BYTES)


class NotifyReceiver:
    """Applies the notifications of the parts: start progress, readiness, and sockets to store."""

    def __init__(self, services: ServiceRegistry, echo: Callable[[str], None]) -> None:
        """`echo` receives progress lines during the start of the supervisor."""
        self._services = services
        self._echo = echo
        with services.folder.reporting_errors():
            self.socket = NotifySocket(services.folder.notify_socket)

    def receive(self) -> None:
        """Reads and applies all pending messages."""
        changed = False
        for message in self.socket.messages():
            service = self._services.with_pid(message.pid)
            if service is None:
                message.close()
            else:
                changed |= self._apply(message, service)
        if changed:
            self._services.write_status()

    def close(self) -> None:
        self.socket.close()

    def _apply(self, message: Message, service: Service) -> bool:
        """Returns whether the message changed the report of the part."""
        socket_count = len(service.sockets)
        service.sockets.apply(message)
        changed = len(service.sockets) != socket_count
        if service.state != "starting":
            return changed
        progress = service.progress
        changed |= service.apply_progress(message.fields)
        if service.progress and service.progress != progress:
            self._report_progress(service)
        if message.fields.get("READY") != "1":
            return changed
        service.state = "running"
        log.info("part ready", part=service.name, pid=message.pid)
        return True

    def _report_progress(self, service: Service) -> None:
        if self._services.is_starting:
            self._echo(f"{service.name}: {service.progress}")
        else:  # after the start the terminal may be gone
            log.info("part start in progress", part=service.name, progress=service.progress)


class ProcessTable:
    """The processes of the parts: started with their stored sockets, watched by pidfd, and restarted with a delay."""

    def __init__(
        self,
        services: ServiceRegistry,
        selector: selectors.BaseSelector,
        *,
        notify_path: Path,
        receive: Callable[[], None],
    ) -> None:
        """`receive` applies the pending notifications of the parts."""
        self._services = services
        self._selector = selector
        self._notify_path = notify_path
        self._receive = receive
        self._open_files = raise_nofile()

    def start(self, service: Service) -> None:
        """Starts the process of a part. Raises StartupError."""
        service.restart_at = None
        service.digest = service_spec.digest(service.spec)
        service.child = self._spawn(service)
        process = identity.find(service.child.pid)
        if process is None:
            # The process exited before its start time was read from /proc.
            service.process = None
            self._on_exit(service)
            return
        with self._services.folder.reporting_errors():
            identity.write_pid_file(process, service.spec.pid_file)
        self.watch(service, process, state="starting", since=utc_timestamp())

    def watch(self, service: Service, process: Process, *, state: str, since: str) -> None:
        """Assigns a running process to a part and watches it until its exit."""
        service.begin(process, state=state, since=since)
        service.pidfd = os.pidfd_open(process.pid)
        self._selector.register(service.pidfd, selectors.EVENT_READ, lambda: self._on_exit(service))
        self._services.write_status()

    def reap(self, service: Service) -> None:
        """Reaps the exited process of a part (waitpid), and stores its exit status."""
        if service.pidfd is not None:
            self._selector.unregister(service.pidfd)
            os.close(service.pidfd)
        service.pidfd, service.process = None, None
        service.last_exit = exit_reason(service.child)
        service.child = None

    def seconds_to_next_restart(self) -> float:
        """Returns infinity if no restart is planned."""
        times = [service.restart_at for service in self._services if service.restart_at is not None]
        return max(0.0, min(times, default=math.inf) - time.monotonic())

    def due(self) -> Iterator[Service]:
        """The parts with a restart time in the past."""
        now = time.monotonic()
        return (each for each in self._services if each.restart_at is not None and each.restart_at <= now)

    def restart(self, service: Service) -> None:
        """Starts a part again. A failure plans the next attempt."""
        service.restarts += 1
        try:
            self.start(service)
        except StartupError as error:
            service.backoff = service.backoff.after_exit(0)
            service.restart_at = time.monotonic() + service.backoff.delay_seconds
            log.error("part start failed", part=service.name, error=str(error))  # noqa: TRY400 - the message suffices

    def _spawn(self, service: Service) -> Child:
        with self._services.folder.reporting_errors():
            output = service.spec.log_file.open("ab")
        with output:
            spec = SpawnSpec(
                argv=service.spec.argv,
                environment=os.environ | {"NOTIFY_SOCKET": str(self._notify_path)},
                output=output.fileno(),
                open_files=self._open_files,
            )
            try:
                return spawn(spec, service.sockets)
            except OSError as error:
                raise StartupError(f"{service.name} cannot be started: {error.strerror}") from error

    def _on_exit(self, service: Service) -> None:
        self._receive()  # messages that the process sent before its exit
        pid = service.process.pid if service.process else None
        self.reap(service)
        request = self._services.folder.restart_request(service.name)
        is_requested = request.exists()
        request.unlink(missing_ok=True)
        service.state = "waiting"
        service.since = utc_timestamp()
        if is_requested:
            service.restart_at = time.monotonic()
            log.info("part restart requested", part=service.name, pid=pid)
        else:
            service.backoff = service.backoff.after_exit(time.monotonic() - service.started_at)
            service.restart_at = time.monotonic() + service.backoff.delay_seconds
            log.error(
                "part died during the start of the supervisor" if self._services.is_starting else "part died",
                part=service.name, pid=pid, reason=service.last_exit, restart_seconds=service.backoff.delay_seconds,
            )  # fmt: skip
        self._services.write_status()


# Log rotation ----------------------------------------------------------------------------------------------------


def rotated_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.1")


def rotate_log(path: Path, limit_bytes: int) -> bool:
    """Moves the contents of a log file to `<name>.1` if it is larger than the limit. Returns whether it was.

    The writers keep their descriptors (O_APPEND), so the file is copied and truncated as by logrotate's copytruncate.
    This works with several writers and with parts that an earlier supervisor started. A line that is written between
    the last read and the truncation is lost. If the copy fails, such as on a full disk, the file is truncated anyway.
    """
    try:
        with path.open("r+b") as file:
            if os.fstat(file.fileno()).st_size <= limit_bytes:
                return False
            is_copied = _copy_log(path, file.fileno())
            os.ftruncate(file.fileno(), 0)
    except OSError:
        return False  # the file is missing or not writable
    if not is_copied:
        log.warning("log file truncated without a copy", file=str(path))
    return True


def _copy_log(path: Path, descriptor: int) -> bool:
    draft = path.with_name(f".{path.name}.new")
    try:
        with draft.open("wb") as copy:
            os.fchmod(copy.fileno(), os.fstat(descriptor).st_mode & 0o777)
            while chunk := os.pread(descriptor, COPY_BYTES, copy.tell()):
                copy.write(chunk)
        draft.replace(rotated_path(path))
    except OSError:
        draft.unlink(missing_ok=True)
        rotated_path(path).unlink(missing_ok=True)  # to free space
        return False
    return True


def _short(seconds: float) -> str:
    """`60`, `0.3`"""
    return f"{seconds:.0f}" if seconds >= 1 else f"{seconds:.1f}"
