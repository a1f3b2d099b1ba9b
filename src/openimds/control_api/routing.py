"""Routers whose routes authenticate the caller before the body is read.

FastAPI reads and parses a body before it resolves dependencies. A client without a token could thus make the server hold
bodies.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from openimds.control_api.context import READ_METHODS, current_context


class AuthenticatingRoute(APIRoute):
    """A route that resolves `current_context` from the head of the request, if the endpoint depends on it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        if (self.methods or set()) <= READ_METHODS or not _needs_caller(self.dependant):
            return handle

        async def authenticated(request: Request) -> Response:
            await run_in_threadpool(current_context, request)
            return await handle(request)

        return authenticated


class ServiceRouter(APIRouter):
    """The router of one service, or of a part of it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(route_class=AuthenticatingRoute, **options)


def _needs_caller(dependant: Dependant) -> bool:
    return dependant.call is current_context or any(_needs_caller(inner) for inner in dependant.dependencies)
