from __future__ import annotations

import asyncio

import pytest
from prometheus_client import REGISTRY

from openimds.http.messages import Request
from openimds.runtime.status_pages import StatusPages


def request(target: bytes, method: str = "GET") -> Request:
    return Request(method=method, target=target, headers=())


@pytest.mark.parametrize(
    ("sent", "away", "status", "text"),
    [
        (request(b"/metrics?x"), False, 200, b"openimds_metadata_requests_total"),
        (request(b"/healthcheck"), False, 200, b"OK"),
        (request(b"/healthcheck", "HEAD"), False, 200, b"OK"),
        (request(b"/healthcheck"), True, 503, b"the store is away"),
        (request(b"/metrics", "POST"), False, 405, b"Only GET"),
        (request(b"/latest"), False, 404, b"/healthcheck"),
    ],
)
def test_pages(instances, sent: Request, away: bool, status: int, text: bytes) -> None:
    instances.away = away
    answer = asyncio.run(StatusPages(REGISTRY, instances.revision).handle(sent))
    assert answer.status == status
    assert text in answer.body
