"""All recorded requests, byte for byte over a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from tests.compat.compare import Received, mismatch
from tests.compat.recordings import Case, Expectations, load_cases, load_instances
from tests.compat.stage import CONFIGS, Stage
from tests.waiting import HANG_SECONDS

from openimds.http.server.server import HttpServer, Listener
from openimds.http.sockets import tcp_listener
from openimds.programs.metadata_api.worker import LIMITS

CASES = load_cases()


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> Iterator[Stage]:
    stage = Stage(tmp_path_factory.mktemp("compat"), load_instances())
    yield stage
    stage.close()


@pytest.mark.parametrize("config", CONFIGS)
def test_responses_over_a_socket_match_the_recorded_nova(stage: Stage, config: str) -> None:
    stage.reset()
    cases = [case for case in CASES if case.config == config]
    failures = asyncio.run(_replay(stage, config, cases))
    assert not failures, f"{len(failures)} of {len(cases)}:\n" + "\n".join(failures[:20])


async def _replay(stage: Stage, config: str, cases: list[Case]) -> list[str]:
    listener = tcp_listener("127.0.0.1", 0)
    port = listener.getsockname()[1]
    server = HttpServer(stage.service(config).handle)
    await server.start([Listener(socket=listener, limits=LIMITS)])
    expectations = Expectations()
    failures = []
    for case in cases:
        expected = expectations.of(case)
        failure = mismatch(case, expected, await _ask(port, case))
        if failure is not None:
            failures.append(failure)
        if expected.difference:
            stage.reset()
    await server.stop(1)
    return failures


async def _ask(port: int, case: Case) -> Received:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(case.request_bytes)
    await writer.drain()
    raw = await asyncio.wait_for(reader.read(), HANG_SECONDS)
    writer.close()
    await writer.wait_closed()
    head, _, body = raw.partition(b"\r\n\r\n")
    status_line, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    if case.method != "HEAD":
        assert int(headers["content-length"]) == len(body), str(case)
    return Received(int(status_line.split(" ")[1]), headers, body)
