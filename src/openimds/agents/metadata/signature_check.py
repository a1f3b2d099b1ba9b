"""At the start: does the metadata API take our signature? Better said now than found out by the first guest."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable

import structlog

from openimds.agents.metadata.protocols import Upstream, UpstreamAwayError
from openimds.agents.metadata.throttled_log import ThrottledLog
from openimds.guest_identity import headers as names
from openimds.guest_identity.signature import sign
from openimds.http.messages import Response

NOBODY = "00000000-0000-0000-0000-000000000000"
"""An instance that does not exist: a good signature gets 404 for it, a bad one 403."""

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0

_log = structlog.get_logger(__name__)


async def check_signature(upstream: Upstream, secret: Callable[[], str], complaints: ThrottledLog) -> int:
    """Ask until there is an answer, then say in words what it means. Returns its status."""
    pause = _FIRST_PAUSE_SECONDS
    while True:
        try:
            answer = await upstream.ask("GET", b"/latest/meta-data/instance-id", _headers(secret()), b"")
        except UpstreamAwayError as error:
            complaints.upstream_away(str(error))
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
        else:
            complaints.upstream_answers()
            _explain(answer, str(upstream), complaints)
            return answer.status


def _headers(secret: str) -> list[tuple[bytes, bytes]]:
    pairs = (
        (names.INSTANCE_ID, NOBODY),
        (names.TENANT_ID, NOBODY),
        (names.SIGNATURE, sign(secret, NOBODY)),
        (names.FORWARDED_FOR, "169.254.169.254"),
        (names.REQUEST_ID, f"req-{uuid.uuid4()}"),
        ("User-Agent", "openimds-metadata-agent self-test"),
    )
    return [(name.encode(), value.encode()) for name, value in pairs]


def _explain(answer: Response, upstream: str, complaints: ThrottledLog) -> None:
    if answer.status == 403:
        complaints.secrets_differ(upstream)
    elif answer.status == 404:
        _log.info("the metadata API takes our signature", metadata_api=upstream)
    else:
        _log.warning(
            "the metadata API gave the self-test another answer than the expected 404; is it a metadata API"
            " with [neutron] service_metadata_proxy = True?",
            metadata_api=upstream,
            status=answer.status,
        )
