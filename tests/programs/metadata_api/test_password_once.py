"""A password that is posted to several workers of several metadata APIs at the same time is stored once."""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Barrier

import pytest
from tests.databases import migrated_store
from tests.programs.metadata_api.test_main import ID, SECRET, Program
from tests.waiting import HANG_SECONDS, until

from openimds.guest_identity.signature import sign
from openimds.store.importer.importer import InstanceStore

PATH = "/openstack/latest/password"
POSTS = 24


def send(port: int, method: str = "GET", body: str | None = None) -> tuple[int, str]:
    headers = {"X-Instance-ID": ID, "X-Tenant-ID": "p1", "X-Instance-ID-Signature": sign(SECRET, ID)}
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=HANG_SECONDS)) as connection:
        connection.request(method, PATH, body, headers)
        response = connection.getresponse()
        return response.status, response.read().decode()


def all_return(port: int, text: str) -> bool:
    """Uses several connections, so that every worker gets a request."""
    return {send(port) for _ in range(8)} == {(200, text)}


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[list[Program]]:
    """Two metadata APIs with two workers each and the same store."""
    state = tmp_path / "state"
    state.mkdir()
    store = migrated_store(state)
    InstanceStore(store).import_instances({"instances": [{"uuid": ID, "project_id": "p1", "hostname": "vm"}]})
    store.close()
    programs = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state").symlink_to(state)
        programs.append(Program(tmp_path / name))
    try:
        for program in programs:
            program.start(default="metadata_workers = 2")
        for program in programs:
            program.wait_ready()
        yield programs
    finally:
        for program in programs:
            program.kill()


def test_first_of_many_posted_passwords_is_stored(replicas: list[Program]) -> None:
    for program in replicas:  # every worker has cached the instance without a password
        assert {send(program.port) for _ in range(8)} == {(200, "")}
    barrier = Barrier(POSTS, timeout=HANG_SECONDS)

    def post(number: int) -> tuple[int, str]:
        port = replicas[number % 2].port
        barrier.wait()
        return send(port, "POST", f"password {number}")[0], f"password {number}"

    with ThreadPoolExecutor(POSTS) as threads:
        responses = list(threads.map(post, range(POSTS)))
    stored = [text for status, text in responses if status == 200]
    assert len(stored) == 1
    assert {status for status, _ in responses} == {200, 409}
    for program in replicas:
        until(partial(all_return, program.port, stored[0]))
        assert send(program.port, "POST", "another")[0] == 409
    assert [program.stop() for program in replicas] == [0, 0]
