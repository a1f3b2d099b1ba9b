"""A listener that a process finds again where the one before has left it, or makes anew."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.ports import free_port

from openimds.config import Listen
from openimds.runtime.fdstore import FdStore, inherited_or_new_listener
from openimds.runtime.lifecycle import StartupError
from openimds.supervisor.notify_socket import FdStoreServer, NotifySocket


def held_by(store: FdStoreServer) -> dict[str, list[socket.socket]]:
    """What a process is started with."""
    pairs = zip(store.names, store.descriptors, strict=True)
    return {name: [socket.socket(fileno=os.dup(descriptor))] for name, descriptor in pairs}


class Manager:
    """The supervisor's own code, on a thread."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "notify"
        self.store = FdStoreServer()
        self._socket = NotifySocket(self.path)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._hear)
        self._thread.start()

    def _hear(self) -> None:
        while not self._ended.wait(0.01):
            for message in self._socket.messages():
                self.store.apply(message)

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        self._socket.close()
        self.store.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path)
    yield manager
    manager.close()


def leave_listener(place: Listen, manager: Manager) -> None:
    """What a process does that ends then."""
    with closing(FdStore({}, str(manager.path))) as kept:
        inherited_or_new_listener(place, kept).close()
        kept.wait_heard()


def test_the_next_process_has_the_same_queue(manager: Manager) -> None:
    place = Listen(host="127.0.0.1", port=free_port())
    leave_listener(place, manager)
    with (
        socket.create_connection((place.host, place.port)) as waiting,  # nobody accepts now
        closing(FdStore(held_by(manager.store), str(manager.path))) as kept,
        inherited_or_new_listener(place, kept) as listener,
    ):
        accepted, peer = listener.accept()
        accepted.close()
        assert peer == waiting.getsockname()


def test_the_same_port_on_another_address_is_had_at_once(manager: Manager) -> None:
    port = free_port()
    leave_listener(Listen(host="127.0.0.1", port=port), manager)
    with (
        closing(FdStore(held_by(manager.store), str(manager.path))) as kept,
        inherited_or_new_listener(Listen(host="0.0.0.0", port=port), kept) as listener,
    ):
        assert listener.getsockname() == ("0.0.0.0", port)
        kept.wait_heard()
        assert len(manager.store) == 1


def test_a_taken_port_is_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(StartupError, match=rf"port {port} on 127.0.0.1 is taken .*\(here\)"):
            inherited_or_new_listener(Listen(host="127.0.0.1", port=port), FdStore({}, ""), hint=" (here)")
