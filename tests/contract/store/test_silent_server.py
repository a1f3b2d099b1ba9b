"""A PostgreSQL that accepts statements and does not answer."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.waiting import HANG_SECONDS

from openimds.resources.errors import StoreUnavailable
from openimds.store import engine, schema
from openimds.store.engine import Store

from .test_trouble import add_image, images


class StallingProxy:
    """Forwards TCP connections to a PostgreSQL server. While `stalled` is set it forwards nothing to clients."""

    def __init__(self, socket_path: Path) -> None:
        self._path = str(socket_path)
        self._flowing = threading.Event()
        self._flowing.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._listener]
        self.port = self._listener.getsockname()[1]
        self.statements = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def stall(self) -> None:
        self._flowing.clear()

    def resume(self) -> None:
        self._flowing.set()

    def close(self) -> None:
        self.resume()
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._path)
                self._sockets += [client, server]
                threading.Thread(target=self._forward, args=(client, server, False), daemon=True).start()
                threading.Thread(target=self._forward, args=(server, client, True), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, to_client: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if to_client:
                    self._flowing.wait()
                else:
                    self.statements += 1
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


@pytest.fixture
def proxy(postgresql_url: str) -> Iterator[StallingProxy]:
    folder = parse_qs(urlsplit(postgresql_url).query)["host"][0]
    running = StallingProxy(Path(folder) / ".s.PGSQL.5432")
    yield running
    running.close()


@pytest.fixture
def store(proxy: StallingProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    postgresql = pytest.importorskip("openimds.store.raw.postgresql")
    made = Store(f"postgresql+psycopg://openimds@127.0.0.1:{proxy.port}/postgres")
    schema.upgrade(made)
    monkeypatch.setattr(postgresql, "SILENCE_SECONDS", 0.5)
    monkeypatch.setattr(engine, "LOCK_SILENCE_SECONDS", 0.5)
    monkeypatch.setitem(postgresql._LIMITS, "connect_timeout", 2)
    yield made
    proxy.resume()
    made.close()


def test_reads_and_writes_are_refused_while_the_server_is_silent(store: Store, proxy: StallingProxy) -> None:
    add_image(store, 1000)
    proxy.stall()
    with pytest.raises(StoreUnavailable):
        images(store)
    with pytest.raises(StoreUnavailable):
        add_image(store, 1001)
    with pytest.raises(StoreUnavailable):
        store.database.revision()
    proxy.resume()
    assert images(store) >= 1
    assert store.database.revision() == store.revision()


def test_write_that_was_not_confirmed_is_not_reported_as_success(store: Store, proxy: StallingProxy) -> None:
    def write_to_a_server_that_stalls_before_the_commit() -> None:
        with store.write() as session:
            session.connection()
            proxy.stall()

    with pytest.raises(StoreUnavailable):
        write_to_a_server_that_stalls_before_the_commit()
    proxy.resume()
    add_image(store, 2000)


def test_silent_server_occupies_one_thread(store: Store, proxy: StallingProxy) -> None:
    images(store)
    proxy.stall()
    with pytest.raises(StoreUnavailable):
        images(store)
    before = proxy.statements
    with ThreadPoolExecutor(40) as callers:
        answers = [callers.submit(images, store) for _ in range(200)]
        for answer in answers:
            with pytest.raises(StoreUnavailable):
                answer.result(HANG_SECONDS)
    assert proxy.statements - before < 40
