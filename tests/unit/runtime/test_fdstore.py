"""Sockets that a service manager keeps: what is said to it, and what a process is given back."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.waiting import HANG_SECONDS

from openimds.runtime.fdstore import FdStore

Keep = Callable[[dict[str, list[socket.socket]]], FdStore]
Message = tuple[set[str], list[socket.socket]]


class Keeper:
    """The service manager's end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._channel.bind(str(path))
        self._channel.settimeout(HANG_SECONDS)

    def hear(self) -> Message:
        data, descriptors, _, _ = socket.recv_fds(self._channel, 4096, 253)
        return set(data.decode().split("\n")), [socket.socket(fileno=each) for each in descriptors]

    def is_silent(self) -> bool:
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
def keeper(tmp_path: Path) -> Iterator[Keeper]:
    keeper = Keeper(tmp_path / "n")
    yield keeper
    keeper.close()


@pytest.fixture
def keep(keeper: Keeper) -> Iterator[Keep]:
    """A process's side, started with some sockets."""
    made: list[FdStore] = []

    def make(given: dict[str, list[socket.socket]]) -> FdStore:
        made.append(FdStore(given, str(keeper.path)))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def test_a_socket_is_put_and_forgotten(keeper: Keeper, keep: Keep, listener: socket.socket) -> None:
    kept = keep({})
    kept.put("network.1.4", listener)
    words, sockets = keeper.hear()
    assert words == {"FDSTORE=1", "FDPOLL=0", "FDNAME=network.1.4"}
    assert [each.getsockname() for each in sockets] == [listener.getsockname()]
    sockets[0].close()
    kept.forget("network.1.4")
    assert keeper.hear() == ({"FDSTOREREMOVE=1", "FDNAME=network.1.4"}, [])


def test_long_names_are_told_short(keeper: Keeper, keep: Keep, listener: socket.socket) -> None:
    name = "network.2f5e8f5c-3a4e-4b6f-9a75-0ba6ae6ecd61.4"
    keep({}).put(name, listener)
    words, (stored,) = keeper.hear()
    told = next(word.removeprefix("FDNAME=") for word in words if word.startswith("FDNAME="))
    # LISTEN_FDNAMES of 8,192 of them is one string of the environment, of which execve(2) takes 128 KiB.
    assert len(told) <= 13
    again = keep({told: [stored]})
    assert again.take(name.replace("2f", "3f")) is None
    assert again.take(name) is stored
    again.forget(name)
    assert keeper.hear()[0] == {"FDSTOREREMOVE=1", f"FDNAME={told}"}
    stored.close()


def test_more_sockets_than_a_queue_holds(keeper: Keeper, keep: Keep, listener: socket.socket) -> None:
    kept = keep({})
    names: list[str] = []

    def hear() -> None:
        while len(names) < 2000:
            words, sockets = keeper.hear()
            names.extend(word.removeprefix("FDNAME=") for word in words if word.startswith("FDNAME="))
            sockets[0].close()

    hearing = threading.Thread(target=hear)
    hearing.start()
    for number in range(2000):
        kept.put(f"network.{number}", listener)
    hearing.join()
    assert names == [f"network.{number}" for number in range(2000)]


@pytest.mark.parametrize("name", ["", "a:b", "a\nb", "ü"])
def test_names_that_the_protocol_does_not_take(name: str, listener: socket.socket) -> None:
    with pytest.raises(ValueError, match="kept socket cannot be named"):
        FdStore({}, "").put(name, listener)


def test_without_a_service_manager_nothing_is_kept(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET"):
        monkeypatch.delenv(name, raising=False)
    kept = FdStore.inherited()
    assert kept.take("a") is None
    kept.put("a", listener)
    kept.renew()
    kept.forget("a")
    assert kept.close_untaken() == ()


def test_a_service_manager_that_is_gone_is_no_error(tmp_path: Path, listener: socket.socket) -> None:
    kept = FdStore({}, str(tmp_path / "gone"))
    kept.put("a", listener)
    kept.renew()


def test_what_is_not_taken_is_closed_everywhere(keeper: Keeper, keep: Keep, listener: socket.socket) -> None:
    given = {"a": [listener.dup()], "b": [listener.dup()], "c": [listener.dup(), listener.dup()]}
    kept = keep(given)
    taken, one_of_two = kept.take("a"), kept.take("c")
    assert taken is not None
    assert one_of_two is not None
    assert kept.take("a") is None
    assert kept.untaken == ("b", "c")
    assert kept.close_untaken() == ("b", "c")
    assert keeper.hear() == ({"FDSTOREREMOVE=1", "FDNAME=b"}, [])
    assert keeper.hear() == ({"FDSTOREREMOVE=1", "FDNAME=c"}, [])
    words, (again,) = keeper.hear()
    assert words == {"FDSTORE=1", "FDPOLL=0", "FDNAME=c"}
    for each in (taken, one_of_two, again):
        each.close()


def test_another_keeper_at_the_same_path_is_given_everything(
    keeper: Keeper, keep: Keep, listener: socket.socket
) -> None:
    kept = keep({"taken": [listener.dup()]})
    taken = kept.take("taken")
    kept.put("put", listener)
    keeper.hear()[1][0].close()
    kept.renew()
    assert keeper.is_silent()
    keeper.close()
    kept.renew()
    keeper.__init__(keeper.path)  # type: ignore[misc]
    kept.renew()
    names: set[str] = set()
    for _ in range(2):
        words, (copy,) = keeper.hear()
        copy.close()
        names |= words
    assert {"FDNAME=taken", "FDNAME=put"} <= names
    kept.renew()
    assert keeper.is_silent()
    assert taken is not None
    taken.close()


CHILD = """
import os, sys
from tests.waiting import HANG_SECONDS
from openimds.runtime.fdstore import FdStore
os.environ["LISTEN_PID"] = str(os.getpid() + int(sys.argv[1]))
kept = FdStore.inherited()
found = kept.take("one"), kept.take("two")
print([each and each.getsockname()[1] for each in found])
print(any(name.startswith("LISTEN_") for name in os.environ), any(each and each.get_inheritable() for each in found))
"""


@pytest.mark.parametrize("for_somebody_else", [0, 1])
def test_a_process_takes_what_it_was_given_in_order(for_somebody_else: int) -> None:
    first, second = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
    with first, second:
        # Above and out of the way first: either may have one of the numbers that the other is to get.
        descriptors = f"{first.fileno()}>&30 {second.fileno()}>&31".split()
        step = "exec " + " ".join(f"{n.split('>&')[1]}>&{n.split('>&')[0]}" for n in descriptors) + " 3>&30 4>&31"
        done = subprocess.run(
            ["/bin/bash", "-c", f'{step}; exec "$@"', "sh", sys.executable, "-c", CHILD, str(for_somebody_else)],
            env=os.environ | {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "one:two"},
            pass_fds=(first.fileno(), second.fileno()), capture_output=True, text=True, check=True,
        )  # fmt: skip
        ports = [each.getsockname()[1] for each in (first, second)]
    expected = [None, None] if for_somebody_else else ports
    assert done.stdout.splitlines()[-2:] == [str(expected), "False False"]
