"""The client of the file descriptor store: its messages, and the sockets that the next process inherits."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.ports import free_port
from tests.waiting import HANG_SECONDS

from openimds.config import Listen
from openimds.runtime.fdstore import FdStore, inherited_or_new_listener
from openimds.runtime.lifecycle import StartupError
from openimds.supervisor.notify_socket import FdStoreServer, NotifySocket

MakeStore = Callable[[dict[str, list[socket.socket]]], FdStore]
Message = tuple[set[str], list[socket.socket]]


class Manager:
    """The service manager's end of the notify socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._channel.bind(str(path))
        self._channel.settimeout(HANG_SECONDS)

    def receive(self) -> Message:
        data, descriptors, _, _ = socket.recv_fds(self._channel, 4096, 253)
        return set(data.decode().split("\n")), [socket.socket(fileno=each) for each in descriptors]

    def has_no_message(self) -> bool:
        self._channel.setblocking(False)
        try:
            self._channel.recv(1)
        except BlockingIOError:
            return True
        finally:
            self._channel.settimeout(HANG_SECONDS)
        return False

    def close(self) -> None:
        self._channel.close()
        self.path.unlink()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path / "n")
    yield manager
    manager.close()


@pytest.fixture
def make_store(manager: Manager) -> Iterator[MakeStore]:
    """Creates the store client of a process that inherited the given sockets."""
    made: list[FdStore] = []

    def make(given: dict[str, list[socket.socket]]) -> FdStore:
        made.append(FdStore(given, str(manager.path)))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def test_socket_is_stored_and_removed(manager: Manager, make_store: MakeStore, listener: socket.socket) -> None:
    fd_store = make_store({})
    fd_store.put("network.1.4", listener)
    words, sockets = manager.receive()
    assert words == {"FDSTORE=1", "FDPOLL=0", "FDNAME=network.1.4"}
    assert [each.getsockname() for each in sockets] == [listener.getsockname()]
    sockets[0].close()
    fd_store.forget("network.1.4")
    assert manager.receive() == ({"FDSTOREREMOVE=1", "FDNAME=network.1.4"}, [])


def test_long_names_are_sent_as_digests(manager: Manager, make_store: MakeStore, listener: socket.socket) -> None:
    name = "network.2f5e8f5c-3a4e-4b6f-9a75-0ba6ae6ecd61.4"
    make_store({}).put(name, listener)
    words, (stored,) = manager.receive()
    wire_name = next(word.removeprefix("FDNAME=") for word in words if word.startswith("FDNAME="))
    # LISTEN_FDNAMES of 8,192 of them is one string of the environment, of which execve(2) takes 128 KiB.
    assert len(wire_name) <= 13
    again = make_store({wire_name: [stored]})
    assert again.take(name.replace("2f", "3f")) is None
    assert again.take(name) is stored
    again.forget(name)
    assert manager.receive()[0] == {"FDSTOREREMOVE=1", f"FDNAME={wire_name}"}
    stored.close()


def test_more_sockets_than_the_queue_holds_are_stored(
    manager: Manager, make_store: MakeStore, listener: socket.socket
) -> None:
    fd_store = make_store({})
    names: list[str] = []

    def receive_all() -> None:
        while len(names) < 2000:
            words, sockets = manager.receive()
            names.extend(word.removeprefix("FDNAME=") for word in words if word.startswith("FDNAME="))
            sockets[0].close()

    receiver = threading.Thread(target=receive_all)
    receiver.start()
    for number in range(2000):
        fd_store.put(f"network.{number}", listener)
    receiver.join()
    assert names == [f"network.{number}" for number in range(2000)]


@pytest.mark.parametrize("name", ["", "a:b", "a\nb", "ü"])
def test_invalid_names_are_rejected(name: str, listener: socket.socket) -> None:
    with pytest.raises(ValueError, match="invalid file descriptor name"):
        FdStore({}, "").put(name, listener)


def test_store_without_a_service_manager_does_nothing(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET"):
        monkeypatch.delenv(name, raising=False)
    fd_store = FdStore.inherited()
    assert fd_store.take("a") is None
    fd_store.put("a", listener)
    fd_store.reregister()
    fd_store.forget("a")
    assert fd_store.close_untaken() == ()


def test_missing_notify_socket_is_no_error(tmp_path: Path, listener: socket.socket) -> None:
    fd_store = FdStore({}, str(tmp_path / "gone"))
    fd_store.put("a", listener)
    fd_store.reregister()


def test_untaken_sockets_are_closed_here_and_in_the_store(
    manager: Manager, make_store: MakeStore, listener: socket.socket
) -> None:
    given = {"a": [listener.dup()], "b": [listener.dup()], "c": [listener.dup(), listener.dup()]}
    fd_store = make_store(given)
    taken, one_of_two = fd_store.take("a"), fd_store.take("c")
    assert taken is not None
    assert one_of_two is not None
    assert fd_store.take("a") is None
    assert fd_store.untaken == ("b", "c")
    assert fd_store.close_untaken() == ("b", "c")
    assert manager.receive() == ({"FDSTOREREMOVE=1", "FDNAME=b"}, [])
    assert manager.receive() == ({"FDSTOREREMOVE=1", "FDNAME=c"}, [])
    words, (again,) = manager.receive()
    assert words == {"FDSTORE=1", "FDPOLL=0", "FDNAME=c"}
    for each in (taken, one_of_two, again):
        each.close()


def test_new_manager_at_the_same_path_receives_every_socket(
    manager: Manager, make_store: MakeStore, listener: socket.socket
) -> None:
    fd_store = make_store({"taken": [listener.dup()]})
    taken = fd_store.take("taken")
    fd_store.put("put", listener)
    manager.receive()[1][0].close()
    fd_store.reregister()
    assert manager.has_no_message()
    manager.close()
    fd_store.reregister()
    manager.__init__(manager.path)  # type: ignore[misc]
    fd_store.reregister()
    names: set[str] = set()
    for _ in range(2):
        words, (copy,) = manager.receive()
        copy.close()
        names |= words
    assert {"FDNAME=taken", "FDNAME=put"} <= names
    fd_store.reregister()
    assert manager.has_no_message()
    assert taken is not None
    taken.close()


CHILD = """
import os, sys
from tests.waiting import HANG_SECONDS
from openimds.runtime.fdstore import FdStore
os.environ["LISTEN_PID"] = str(os.getpid() + int(sys.argv[1]))
fd_store = FdStore.inherited()
found = fd_store.take("one"), fd_store.take("two")
print([each and each.getsockname()[1] for each in found])
print(any(name.startswith("LISTEN_") for name in os.environ), any(each and each.get_inheritable() for each in found))
"""


@pytest.mark.parametrize("pid_offset", [0, 1])
def test_process_inherits_sockets_in_order_if_listen_pid_matches(pid_offset: int) -> None:
    first, second = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
    with first, second:
        # Both descriptors move to 30 and 31 first, because either may have a number that the other one is to get.
        descriptors = f"{first.fileno()}>&30 {second.fileno()}>&31".split()
        step = "exec " + " ".join(f"{n.split('>&')[1]}>&{n.split('>&')[0]}" for n in descriptors) + " 3>&30 4>&31"
        done = subprocess.run(
            ["/bin/bash", "-c", f'{step}; exec "$@"', "sh", sys.executable, "-c", CHILD, str(pid_offset)],
            env=os.environ | {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "one:two"},
            pass_fds=(first.fileno(), second.fileno()), capture_output=True, text=True, check=True,
        )  # fmt: skip
        ports = [each.getsockname()[1] for each in (first, second)]
    expected = [None, None] if pid_offset else ports
    assert done.stdout.splitlines()[-2:] == [str(expected), "False False"]


def held_by(store: FdStoreServer) -> dict[str, list[socket.socket]]:
    """The sockets that the next process inherits."""
    pairs = zip(store.names, store.descriptors, strict=True)
    return {name: [socket.socket(fileno=os.dup(descriptor))] for name, descriptor in pairs}


class SupervisorStore:
    """The supervisor's notify socket and store, on a thread."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "notify"
        self.store = FdStoreServer()
        self._socket = NotifySocket(self.path)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._receive)
        self._thread.start()

    def _receive(self) -> None:
        while not self._ended.wait(0.01):
            for message in self._socket.messages():
                self.store.apply(message)

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        self._socket.close()
        self.store.close()


@pytest.fixture
def supervisor_store(tmp_path: Path) -> Iterator[SupervisorStore]:
    supervisor_store = SupervisorStore(tmp_path)
    yield supervisor_store
    supervisor_store.close()


def leave_listener(place: Listen, supervisor_store: SupervisorStore) -> None:
    """Runs the start and the end of a process with a listener at `place`."""
    with closing(FdStore({}, str(supervisor_store.path))) as fd_store:
        inherited_or_new_listener(place, fd_store).close()
        fd_store.barrier()


def test_next_process_inherits_the_accept_queue(supervisor_store: SupervisorStore) -> None:
    place = Listen(host="127.0.0.1", port=free_port())
    leave_listener(place, supervisor_store)
    with (
        socket.create_connection((place.host, place.port)) as waiting,  # while no process accepts
        closing(FdStore(held_by(supervisor_store.store), str(supervisor_store.path))) as fd_store,
        inherited_or_new_listener(place, fd_store) as listener,
    ):
        accepted, peer = listener.accept()
        accepted.close()
        assert peer == waiting.getsockname()


def test_same_port_on_another_address_is_bound_immediately(supervisor_store: SupervisorStore) -> None:
    port = free_port()
    leave_listener(Listen(host="127.0.0.1", port=port), supervisor_store)
    with (
        closing(FdStore(held_by(supervisor_store.store), str(supervisor_store.path))) as fd_store,
        inherited_or_new_listener(Listen(host="0.0.0.0", port=port), fd_store) as listener,
    ):
        assert listener.getsockname() == ("0.0.0.0", port)
        fd_store.barrier()
        assert len(supervisor_store.store) == 1


def test_taken_port_is_a_startup_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(StartupError, match=rf"port {port} on 127.0.0.1 is taken .*\(here\)"):
            inherited_or_new_listener(Listen(host="127.0.0.1", port=port), FdStore({}, ""), hint=" (here)")
