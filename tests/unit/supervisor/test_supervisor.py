"""The supervisor with small test programs: readiness, restarts, adoption, and stop."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.waiting import HANG_SECONDS, until

from openimds.linux.process import identity
from openimds.linux.process.identity import Process
from openimds.runtime.fdstore import FdStore
from openimds.runtime.lifecycle import StartupError
from openimds.supervisor import service as service_module
from openimds.supervisor import service_spec as service_spec_module
from openimds.supervisor import supervisor
from openimds.supervisor.service_spec import ServiceSpec
from openimds.supervisor.state_dir import StateDir
from openimds.supervisor.status import restart_part
from openimds.supervisor.supervisor import Supervisor

READY = textwrap.dedent("""\
    import os, signal, socket, sys, time
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    channel.connect(os.environ["NOTIFY_SOCKET"])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    channel.send(b"READY=1")
    while True: signal.pause()
""")
STORES_SOCKETS = textwrap.dedent("""\
    import os, signal, socket, sys, threading, time
    from openimds.runtime import sd_notify as notify
    from openimds.runtime.fdstore import FdStore
    fd_store = FdStore.inherited()
    listeners = [fd_store.take(f"listener{n}") or socket.create_server(("127.0.0.1", 0)) for n in range(3)]
    for n, listener in enumerate(listeners):
        fd_store.put(f"listener{n}", listener)
    def reregister():
        while True:
            fd_store.reregister()
            time.sleep(0.01)
    threading.Thread(target=reregister, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(os.getpid(), *(listener.getsockname()[1] for listener in listeners), flush=True)
    notify.send("READY=1")
    while True: signal.pause()
""")
"""A part that never accepts, so that clients wait in the accept queue."""
FAILS = 'import sys; sys.exit("cannot listen on 127.0.0.1:1")'
SILENT = "import time; time.sleep(60)"
SLOW = textwrap.dedent("""\
    import os, pathlib, signal, sys, time
    from openimds.runtime import sd_notify as notify
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    go_on, seconds = pathlib.Path(sys.argv[1]), float(sys.argv[2])
    notify.extend_start(seconds, "120 of 200 networks") if seconds else notify.send("STATUS=120 of 200 networks")
    while not go_on.exists(): time.sleep(0.01)
    notify.ready()
    while True: signal.pause()
""")
"""A part that extends its start timeout, and becomes ready when a file exists."""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[StateDir]:
    folder = StateDir(tmp_path / "state")
    folder.prepare()
    (folder.etc / "a.ini").write_text("")
    yield folder
    for pid_file in folder.run.glob("*.pid"):
        left = identity.read_pid_file(pid_file)
        if left:
            left.send(signal.SIGKILL)
            left.wait(HANG_SECONDS)


def part(folder: StateDir, name: str, script: str) -> ServiceSpec:
    return ServiceSpec(
        name=name,
        argv=(sys.executable, "-c", script),
        log_file=folder.log_file(name),
        pid_file=folder.pid_file(name),
        files=(str(folder.etc / "a.ini"),),
        listens="-",
    )


def entry(folder: StateDir, name: str) -> dict[str, Any]:
    found = [part for part in folder.read_status().get("parts", []) if part["name"] == name]
    return found[0] if found else {}


@pytest.fixture
def running(folder: StateDir) -> Iterator[Callable[[ServiceSpec], Supervisor]]:
    """Runs a supervisor of one part in a thread until the test ends."""
    started: list[tuple[Supervisor, threading.Thread, str]] = []

    def run(part: ServiceSpec) -> Supervisor:
        supervised = Supervisor([part], folder)
        supervised.start([[part.name]])
        thread = threading.Thread(target=supervised.run)
        thread.start()
        started.append((supervised, thread, part.name))
        return supervised

    yield run
    for supervised, thread, name in started:
        supervised.request_stop()
        # The exit of a part wakes the supervisor's loop.
        process = identity.read_pid_file(folder.pid_file(name))
        if process:
            process.send(signal.SIGKILL)
        thread.join(HANG_SECONDS)
        assert not thread.is_alive()
        supervised.stop([[name]])
        supervised.close()


def orphaned(killed: Supervisor) -> None:
    """Simulates a killed supervisor. This process stays the parent of its parts and must reap them."""
    killed.close()
    child = killed._services["a"].child
    assert child is not None
    threading.Thread(target=child.wait, daemon=True).start()


def pid_of(folder: StateDir, name: str) -> int:
    return int(entry(folder, name).get("pid") or 0)


def test_parts_start_stage_by_stage(folder: StateDir) -> None:
    supervised = Supervisor([part(folder, "a", READY), part(folder, "b", READY)], folder)
    supervised.start([["a"], ["b"]])
    report = {each["name"]: each for each in supervised.report()}
    assert report["a"]["state"] == report["b"]["state"] == "running"
    assert identity.read_pid_file(folder.pid_file("a")) is not None
    supervised.stop([["a"], ["b"]])
    supervised.close()
    assert {each["state"] for each in supervised.report()} == {"stopped"}
    assert not list(folder.run.glob("*.pid"))
    assert not identity.find(report["a"]["pid"])


def test_failed_start_is_reported_with_the_last_log_line(folder: StateDir) -> None:
    supervised = Supervisor([part(folder, "control-api", FAILS)], folder)
    with pytest.raises(StartupError) as raised:
        supervised.start([["control-api"]])
    supervised.stop([["control-api"]])
    supervised.close()
    assert "control-api did not start (exit code 1): cannot listen on 127.0.0.1:1" in str(raised.value)
    assert str(folder.log_file("control-api")) in str(raised.value)


def test_part_that_never_becomes_ready_is_a_startup_error(folder: StateDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "READY_TIMEOUT_SECONDS", 0.3)
    supervised = Supervisor([part(folder, "a", SILENT)], folder)
    with pytest.raises(StartupError, match=r"a: not ready within 0\.3 s; its log is empty"):
        supervised.start([["a"]])
    supervised.stop([["a"]])
    supervised.close()


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the clock of the supervisor forward."""
    passed = [0.0]
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + passed[0])
    for module in (supervisor, service_module):
        monkeypatch.setattr(module, "time", clock)

    def go(seconds: float) -> None:
        passed[0] += seconds

    return go


def slow_part(folder: StateDir, *, extension_seconds: float) -> ServiceSpec:
    made = part(folder, "a", SLOW)
    return replace(made, argv=(*made.argv, str(folder.run / "go-on"), str(extension_seconds)))


def test_part_can_extend_its_start_timeout(folder: StateDir, later: Callable[[float], None]) -> None:
    lines: list[str] = []

    def on_progress(line: str) -> None:
        lines.append(line)
        later(service_module.READY_TIMEOUT_SECONDS + 30)
        (folder.run / "go-on").touch()

    supervised = Supervisor([slow_part(folder, extension_seconds=300)], folder, on_progress)
    supervised.start([["a"]])
    assert lines == ["a: 120 of 200 networks"]
    assert (entry(folder, "a")["state"], entry(folder, "a")["said"]) == ("running", "")
    supervised.stop([["a"]])
    supervised.close()


@pytest.mark.parametrize(("extension_seconds", "after_seconds"), [(0, 61), (300, 301)])
def test_start_fails_after_the_extended_timeout(
    folder: StateDir, later: Callable[[float], None], extension_seconds: float, after_seconds: float
) -> None:
    supervised = Supervisor(
        [slow_part(folder, extension_seconds=extension_seconds)], folder, lambda _: later(after_seconds)
    )
    with pytest.raises(StartupError, match=r"a \(120 of 200 networks\): not ready within \d+ s"):
        supervised.start([["a"]])
    supervised.stop([["a"]])
    supervised.close()


def test_short_extension_does_not_shorten_the_timeout(folder: StateDir, later: Callable[[float], None]) -> None:
    def on_progress(_line: str) -> None:
        later(30)
        (folder.run / "go-on").touch()

    supervised = Supervisor([slow_part(folder, extension_seconds=1)], folder, on_progress)
    supervised.start([["a"]])
    supervised.stop([["a"]])
    supervised.close()


def test_killed_part_is_restarted(folder: StateDir, running: Callable[[ServiceSpec], Supervisor]) -> None:
    running(part(folder, "a", READY))
    before = pid_of(folder, "a")
    os.kill(before, signal.SIGKILL)
    until(lambda: pid_of(folder, "a") not in (0, before) and entry(folder, "a")["state"] == "running")
    assert entry(folder, "a")["restarts"] == 1
    assert entry(folder, "a")["last_exit"] == "killed by SIGKILL"


def test_requested_restart_has_no_delay(
    folder: StateDir, running: Callable[[ServiceSpec], Supervisor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_spec_module, "RESTART_DELAYS_SECONDS", (60,))
    running(part(folder, "a", READY))
    before = pid_of(folder, "a")
    folder.restart_request("a").touch()
    os.kill(before, signal.SIGTERM)
    until(lambda: pid_of(folder, "a") not in (0, before) and entry(folder, "a")["state"] == "running")
    assert not folder.restart_request("a").exists()


@pytest.mark.parametrize(
    ("file", "text", "sentence"),
    [
        ("policy.yaml", '"create_routr": "!"\n', "there is no rule create_routr"),
        ("a.ini", "[DEFAULT]\ndebug = maybe\n", "debug"),
    ],
)
def test_restart_with_an_invalid_configuration_leaves_the_part_running(
    folder: StateDir, running: Callable[[ServiceSpec], Supervisor], file: str, text: str, sentence: str
) -> None:
    made = part(folder, "control-api", READY)
    running(replace(made, argv=(*made.argv, "--config-file", str(folder.etc / "a.ini"))))
    before = pid_of(folder, "control-api")
    identity.write_pid_file(identity.current(), folder.supervisor_pid_file)
    (folder.etc / file).write_text(text)
    try:
        with pytest.raises(StartupError, match=sentence):
            restart_part(folder.path, "control-api", lambda _line: None)
    finally:
        folder.supervisor_pid_file.unlink()  # the fixture kills the processes of the PID files, and this is the test's
    assert pid_of(folder, "control-api") == before
    assert not folder.restart_request("control-api").exists()


def test_part_outlives_its_supervisor_and_is_adopted(folder: StateDir) -> None:
    first = Supervisor([part(folder, "a", READY)], folder)
    first.start([["a"]])
    pid = pid_of(folder, "a")
    orphaned(first)

    second = Supervisor([part(folder, "a", READY)], folder)
    assert second.adopt() == ("a",)
    second.start([["a"]])
    assert pid_of(folder, "a") == pid
    second.stop([["a"]])
    second.close()
    assert not identity.find(pid)


def test_part_with_another_configuration_is_replaced(folder: StateDir) -> None:
    first = Supervisor([part(folder, "a", READY)], folder)
    first.start([["a"]])
    pid = pid_of(folder, "a")
    orphaned(first)

    (folder.etc / "a.ini").write_text("[DEFAULT]\ndebug = True\n")
    second = Supervisor([part(folder, "a", READY)], folder)
    assert second.adopt() == ()
    assert not identity.find(pid)
    second.start([["a"]])
    assert pid_of(folder, "a") != pid
    second.stop([["a"]])
    second.close()


def test_adopted_part_is_restarted_after_its_exit(
    folder: StateDir, running: Callable[[ServiceSpec], Supervisor]
) -> None:
    first = Supervisor([part(folder, "a", READY)], folder)
    first.start([["a"]])
    before = pid_of(folder, "a")
    orphaned(first)

    second = Supervisor([part(folder, "a", READY)], folder)
    second.adopt()
    thread = threading.Thread(target=second.run)
    thread.start()
    os.kill(before, signal.SIGKILL)
    until(lambda: pid_of(folder, "a") not in (0, before) and entry(folder, "a")["state"] == "running")
    second.request_stop()
    os.kill(pid_of(folder, "a"), signal.SIGKILL)
    thread.join(HANG_SECONDS)
    second.stop([["a"]])
    second.close()


def socket_lines(folder: StateDir) -> list[list[str]]:
    """The lines that the part with stored sockets logs: its PID and the ports of its sockets."""
    lines = (line.split() for line in folder.log_file("a").read_text().splitlines())
    return [words for words in lines if len(words) == 4 and all(word.isdigit() for word in words)]


def test_stored_sockets_outlive_a_killed_part(folder: StateDir, running: Callable[[ServiceSpec], Supervisor]) -> None:
    running(part(folder, "a", STORES_SOCKETS))
    ((pid, *ports),) = socket_lines(folder)
    assert entry(folder, "a")["kept_sockets"] == 3
    clients = [socket.create_connection(("127.0.0.1", int(port))) for port in ports]
    os.kill(int(pid), signal.SIGKILL)
    clients += [socket.create_connection(("127.0.0.1", int(port))) for port in ports]
    until(lambda: pid_of(folder, "a") not in (0, int(pid)) and entry(folder, "a")["state"] == "running")
    assert socket_lines(folder)[1][1:] == ports
    for client in clients:
        client.setblocking(False)
        with pytest.raises(BlockingIOError):  # the client still waits: it is neither refused nor reset
            client.recv(1)
        client.close()


def test_sockets_of_an_adopted_part_are_stored(folder: StateDir) -> None:
    first = Supervisor([part(folder, "a", STORES_SOCKETS)], folder)
    first.start([["a"]])
    ((pid, *ports),) = socket_lines(folder)
    orphaned(first)

    second = Supervisor([part(folder, "a", STORES_SOCKETS)], folder)
    assert second.adopt() == ("a",)
    thread = threading.Thread(target=second.run)
    thread.start()
    until(lambda: entry(folder, "a")["kept_sockets"] == 3)
    os.kill(int(pid), signal.SIGKILL)
    until(lambda: len(socket_lines(folder)) == 2 and entry(folder, "a")["state"] == "running")
    assert socket_lines(folder)[1][1:] == ports
    second.request_stop()
    os.kill(pid_of(folder, "a"), signal.SIGKILL)
    thread.join(HANG_SECONDS)
    second.stop([["a"]])
    second.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(ports[0])))


def test_stored_sockets_outlive_a_replaced_part(folder: StateDir) -> None:
    first = Supervisor([part(folder, "a", STORES_SOCKETS)], folder)
    first.start([["a"]])
    ((_, *ports),) = socket_lines(folder)
    orphaned(first)

    (folder.etc / "a.ini").write_text("[DEFAULT]\ndebug = True\n")
    second = Supervisor([part(folder, "a", STORES_SOCKETS)], folder)
    assert second.adopt() == ()
    second.start([["a"]])
    assert socket_lines(folder)[1][1:] == ports
    second.stop([["a"]])
    second.close()


def test_notifications_of_other_processes_are_ignored(
    folder: StateDir, running: Callable[[ServiceSpec], Supervisor]
) -> None:
    running(part(folder, "a", STORES_SOCKETS))
    with socket.create_server(("127.0.0.1", 0)) as foreign:
        fd_store = FdStore({}, str(folder.notify_socket))
        fd_store.put("listener0", foreign)
        fd_store.forget("listener1")
        fd_store.close()
    before = pid_of(folder, "a")
    os.kill(before, signal.SIGKILL)
    until(lambda: len(socket_lines(folder)) == 2 and entry(folder, "a")["state"] == "running")
    assert socket_lines(folder)[0][1:] == socket_lines(folder)[1][1:]


def test_sigterm_requests_a_stop(folder: StateDir) -> None:
    supervised = Supervisor([part(folder, "a", READY)], folder)
    with supervised.handling_signals():
        supervised.start([["a"]])
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
        supervised.run()
    supervised.stop([["a"]])
    supervised.close()
    assert supervised.is_stopping


def test_pid_file_of_a_reused_pid_is_ignored(folder: StateDir) -> None:
    identity.write_pid_file(Process(os.getpid(), 1), folder.pid_file("a"))
    assert identity.read_pid_file(folder.pid_file("a")) is None


def test_process_that_ignores_sigterm_is_killed() -> None:
    script = "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('x', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        process = identity.find(child.pid)
        assert process is not None
        assert identity.terminate([process], 0.1) == [process]
        assert child.wait(HANG_SECONDS) == -signal.SIGKILL
    assert identity.terminate([process], 0.1) == []


def test_log_files_are_rotated(
    folder: StateDir, running: Callable[[ServiceSpec], Supervisor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "LOG_BYTES", 1000)
    monkeypatch.setattr(supervisor, "LOG_CHECK_SECONDS", 0.01)
    talks = READY.replace("while True: signal.pause()", "while True: print('line', flush=True); time.sleep(0.001)")
    running(part(folder, "a", talks))
    older = folder.log / "a.log.1"
    until(older.exists)
    first = older.stat().st_ino
    until(lambda: older.stat().st_ino != first)
    assert "line" in older.read_text().splitlines()
