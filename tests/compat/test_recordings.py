"""All recorded requests, through the HTTP parser and the handler without sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from tests.compat.compare import Received, mismatch
from tests.compat.recordings import Case, Expectations, load_cases, load_instances
from tests.compat.stage import Stage

from openimds.http.server.limits import HttpError
from openimds.http.server.request_parser import RequestParser
from openimds.imds.handler import MetadataHandler
from openimds.programs.metadata_api.worker import LIMITS

CASES = load_cases()
GROUPS = sorted({(case.config, case.group) for case in CASES})


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> Iterator[Stage]:
    stage = Stage(tmp_path_factory.mktemp("compat"), load_instances())
    yield stage
    stage.close()


@pytest.mark.parametrize(("config", "group"), GROUPS)
def test_responses_match_the_recorded_nova(stage: Stage, config: str, group: str) -> None:
    cases = [case for case in CASES if (case.config, case.group) == (config, group)]
    stage.reset()
    failures = asyncio.run(_replay(stage, config, cases))
    assert not failures, f"{len(failures)} of {len(cases)}:\n" + "\n".join(failures[:20])


def test_recordings_are_complete() -> None:
    assert len(CASES) == 2124


async def _replay(stage: Stage, config: str, cases: list[Case]) -> list[str]:
    service = stage.service(config)
    expectations = Expectations()
    failures = []
    for case in cases:
        expected = expectations.of(case)
        failure = mismatch(case, expected, await _ask(service, case))
        if failure is not None:
            failures.append(failure)
        if expected.difference:
            stage.reset()  # the different response must not affect the next cases
    return failures


async def _ask(service: MetadataHandler, case: Case) -> Received:
    conversation = RequestParser(LIMITS, peer="127.0.0.1")
    conversation.receive(case.request_bytes)
    try:
        incoming = conversation.next()
    except HttpError as refusal:
        return Received(refusal.status, {}, refusal.sentence.encode())
    assert incoming is not None, f"{case} is not complete"
    response = await service.handle(incoming.request)
    headers = {name.decode().lower(): value.decode() for name, value in response.headers}
    body = b"" if case.method == "HEAD" else response.body
    return Received(response.status, headers, body)
