"""What a guest is told instead of an answer, when something goes wrong."""

from __future__ import annotations

import structlog

from openimds.guest_identity.headers import values
from openimds.imds.messages import GuestRequest
from openimds.imds.response import Trace
from openimds.metadata.outcome import TRY_AGAIN_SENTENCE, Answer, Refusal, refusal_answer
from openimds.resources.errors import StoreUnavailable

log = structlog.get_logger(__name__)


def excuse(error: Exception, request: GuestRequest, trace: Trace) -> Answer:
    """A Refusal in its own words; 503 while the store is away; 500, and the error in the log, for what nobody foresaw."""
    if isinstance(error, Refusal):
        trace.facts = getattr(error, "facts", trace.facts)
        return refusal_answer(error, _accept(request))
    if isinstance(error, StoreUnavailable):
        log.warning("a request could not be answered", reason=error.message, request_id=trace.request_id)
        return refusal_answer(_try_again_later(), _accept(request))
    log.error("a request failed", request_id=trace.request_id, instance_id=trace.instance_id, exc_info=error)
    return refusal_answer(Refusal(500, TRY_AGAIN_SENTENCE), _accept(request))


def _accept(request: GuestRequest) -> str | None:
    return ",".join(values(request.headers, "Accept")) or None


def _try_again_later() -> Refusal:
    return Refusal(503, "The metadata cannot be read just now. Please try your request again.", (("Retry-After", "1"),))
