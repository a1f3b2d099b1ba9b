from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
from prometheus_client import REGISTRY

from openimds.runtime.status_pages import StatusPages


@dataclass(frozen=True)
class Ask:
    target: bytes
    method: str = "GET"
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""
    peer: str = ""
    listener: str = "tcp"
    mac: str = ""
    peer_port: int = 0


@pytest.mark.parametrize(
    ("ask", "away", "status", "text"),
    [
        (Ask(b"/metrics?x"), False, 200, b"openimds_metadata_requests_total"),
        (Ask(b"/healthcheck"), False, 200, b"OK"),
        (Ask(b"/healthcheck", "HEAD"), False, 200, b"OK"),
        (Ask(b"/healthcheck"), True, 503, b"the store is away"),
        (Ask(b"/metrics", "POST"), False, 405, b"Only GET"),
        (Ask(b"/latest"), False, 404, b"/healthcheck"),
    ],
)
def test_pages(instances, ask: Ask, away: bool, status: int, text: bytes) -> None:
    instances.away = away
    answer = asyncio.run(StatusPages(REGISTRY, instances.revision).handle(ask))
    assert answer.status == status
    assert text in answer.body
