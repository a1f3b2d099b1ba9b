"""/metrics and /healthcheck: for operators, on a listener of its own that no guest reaches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from openimds.http.messages import Request, Response
from openimds.resources.errors import StoreUnavailable

_TEXT = "text/plain; charset=UTF-8"


class StatusPages:
    """`await pages.handle(request)`"""

    def __init__(
        self,
        registry: CollectorRegistry,
        check_store: Callable[[], object],
        count_up: Callable[[], None] = lambda: None,
    ) -> None:
        """`check_store` raises StoreUnavailable; it may block. `count_up` is called before figures are shown."""
        self._count_up = count_up
        self._registry = registry
        self._check_store = check_store

    async def handle(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            return _page(405, "Only GET and HEAD can be used here.", (b"Allow", b"GET, HEAD"))
        match request.target.split(b"?", 1)[0]:
            case b"/metrics":
                self._count_up()
                content_type = (b"Content-Type", CONTENT_TYPE_PLAIN_0_0_4.encode())
                return Response(status=200, headers=(content_type,), body=generate_latest(self._registry))
            case b"/healthcheck":
                return await self._health()
        return _page(404, "Here are /metrics and /healthcheck.")

    async def _health(self) -> Response:
        try:
            await asyncio.to_thread(self._check_store)
        except StoreUnavailable as error:
            return _page(503, error.message)
        return _page(200, "OK")


def _page(status: int, text: str, *headers: tuple[bytes, bytes]) -> Response:
    return Response(status=status, headers=((b"Content-Type", _TEXT.encode()), *headers), body=f"{text}\n".encode())
