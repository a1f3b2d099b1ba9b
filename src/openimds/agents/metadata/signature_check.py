"""Checks at the start whether the metadata API accepts the agent's signature."""

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

NO_INSTANCE = "00000000-0000-0000-0000-000000000000"
"""The ID of an instance that does not exist. The response is 404 for a valid signature, 403 for an invalid one."""

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0

_log = structlog.get_logger(__name__)


async def check_signature(upstream: Upstream, secret: Callable[[], str], throttled_log: ThrottledLog) -> int:
    """Sends a signed request until there is a response, logs the result, and returns the status."""
    pause = _FIRST_PAUSE_SECONDS
    while True:
        try:
            answer = await upstream.request("GET", b"/latest/meta-data/instance-id", _headers(secret()), b"")
        except UpstreamAwayError as error:
            throttled_log.upstream_away(str(error))
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
        else:
            throttled_log.upstream_answers()
            _explain(answer, str(upstream), throttled_log)
            return answer.status


def _headers(secret: str) -> list[tuple[bytes, bytes]]:
    pairs = (
        (names.INSTANCE_ID, NO_INSTANCE),
        (names.TENANT_ID, NO_INSTANCE),
        (names.SIGNATURE, sign(secret, NO_INSTANCE)),
        (names.FORWARDED_FOR, "169.254.169.254"),
        (names.REQUEST_ID, f"req-{uuid.uuid4()}"),
        ("User-Agent", "openimds-metadata-agent self-test"),
    )
    return [(name.encode(), value.encode()) for name, value in pairs]


def _explain(answer: Response, upstream: str, throttled_log: ThrottledLog) -> None:
    if answer.status == 403:
        throttled_log.secrets_differ(upstream)
    elif answer.status == 404:
        _log.info("signature accepted by the metadata API", metadata_api=upstream)
    else:
        _log.warning(
            "signature check inconclusive: the metadata API did not respond with 404; check that it has"
            " [neutron] service_metadata_proxy = True",
            metadata_api=upstream,
            status=answer.status,
        )
