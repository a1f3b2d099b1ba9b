"""Calling the handler: whatever it does, its guest gets an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, cast

import structlog

from openimds.http.messages import Answer, Handler, Request
from openimds.http.server.response import FAILED

_log = structlog.get_logger(__name__)


def handled(handler: Handler, request: Request, listener: str) -> Answer | Coroutine[Any, Any, Answer]:
    """The handler's answer, or what will be it (`handled_later`)."""
    try:
        return cast(Answer | Coroutine[Any, Any, Answer], handler(request))
    except Exception:  # noqa: BLE001 - see above
        _log.exception("a request failed", listener=listener)
        return FAILED


async def handled_later(coming: Coroutine[Any, Any, Answer], listener: str) -> Answer:
    try:
        return await coming
    except asyncio.CancelledError:
        raise
    except Exception:  # noqa: BLE001 - see above
        _log.exception("a request failed", listener=listener)
        return FAILED
