"""From an answer to what the guest is sent: its headers, its log line, and how it is given again."""

from __future__ import annotations

import time
from collections.abc import KeysView, Mapping
from dataclasses import dataclass, field
from weakref import ref

from openimds.guest_identity.headers import REQUEST_ID
from openimds.imds.authenticators import Asker
from openimds.imds.delegation import Reply
from openimds.imds.document_cache import Calendar
from openimds.imds.messages import GuestRequest, GuestResponse
from openimds.imds.metrics import TALLY
from openimds.imds.rendered_document import Rendered, Seeds
from openimds.imds.repeating import Again, Lease, Repeat
from openimds.imds.request_log import REQUEST_ANSWERED, REQUEST_GIVEN_UP, Line, RequestLog, logged_path
from openimds.imds.session_tokens import Sessions
from openimds.metadata.outcome import Answer
from openimds.metadata.session_policy import HOP_LIMIT

ANNOUNCES_A_BODY = frozenset({b"content-length", b"transfer-encoding"})
_CHANGES_THE_ANSWER = ANNOUNCES_A_BODY | {b"x-aws-ec2-metadata-token", b"if-none-match"}
"""A request with one of these is judged anew each time."""
_REQUEST_ID = REQUEST_ID.encode()


@dataclass(slots=True)
class Trace:
    """What is known of a request, as far as it came."""

    request_id: str
    started: float
    """time.monotonic"""
    header_names: KeysView[bytes]
    """In lower case."""
    instance_id: str | None = None
    facts: Mapping[str, object] = field(default_factory=dict)
    """For the log line."""
    asker: Asker | None = None
    rendered: Rendered | None = None
    """What the answer was taken from, when it can be again."""


class Finishing:
    """Of one service."""

    def __init__(
        self, *, calendar: Calendar, seeds: Seeds, sessions: Sessions, request_log: RequestLog, is_behind_agent: bool
    ) -> None:
        self._calendar = calendar
        self._seeds = seeds
        self._sessions = sessions
        self._log = request_log
        self._is_behind_agent = is_behind_agent
        self._lease = Lease()

    def finish(self, request: GuestRequest, answer: Answer | Reply, trace: Trace) -> GuestResponse:
        """Counted and logged; a reply from elsewhere stays as it is."""
        TALLY.answered(answer.status, time.monotonic() - trace.started)
        became = {"status": answer.status, "bytes": len(answer.body)}
        line = self._write_line(request, REQUEST_ANSWERED, trace, became)
        if not isinstance(answer, Answer):
            return GuestResponse(
                status=answer.status, headers=tuple(answer.headers), body=answer.body, hop_limit=answer.hop_limit
            )
        return self._response(answer, trace, self._again(request, answer, trace, line))

    def give_up(self, request: GuestRequest, trace: Trace) -> None:
        """Its guest hung up, or waited too long; what was asked may have been done all the same."""
        self._write_line(request, REQUEST_GIVEN_UP, trace, {})

    def retire(self) -> None:
        """Nothing that was finished here is given again."""
        self._lease.valid = False

    def _response(self, answer: Answer, trace: Trace, again: Again | None) -> GuestResponse:
        headers, hop_limit = [(b"Content-Type", answer.content_type.encode())], None
        for name, value in answer.headers:
            if name == HOP_LIMIT and not self._is_behind_agent:
                hop_limit = int(value)  # done here, where no agent does it, and not told to the guest
            else:
                headers.append((name.encode(), value.encode()))
        headers.append((_REQUEST_ID, trace.request_id.encode()))
        return GuestResponse(
            status=answer.status, headers=tuple(headers), body=answer.body, again=again, hop_limit=hop_limit
        )

    def _write_line(self, request: GuestRequest, event: str, trace: Trace, became: Mapping[str, object]) -> Line:
        """→ what writes such a line again."""
        asked = {"method": request.method, "path": logged_path(request.target)}
        line = self._log.line(event, {"instance_id": trace.instance_id, **trace.facts, **asked, **became})
        line(trace.request_id, (time.monotonic() - trace.started) * 1000)
        return line

    def _again(self, request: GuestRequest, answer: Answer, trace: Trace, line: Line) -> Again | None:
        asker, rendered = trace.asker, trace.rendered
        if asker is None or rendered is None or (request.method, answer.status) != ("GET", 200):
            return None
        if not asker.secret and asker.still is None:
            return None
        policy = self._sessions.policy(asker.instance)
        if policy.root_only or policy.user_data_minutes:
            return None  # the bytes tell neither the port nor the hour
        if not trace.header_names.isdisjoint(_CHANGES_THE_ANSWER):
            return None
        return Repeat(
            record=ref(asker.record),
            rendered=ref(rendered),
            seeds=self._seeds,
            line=line,
            lease=self._lease,
            until=self._calendar.today().ends_at,
            secret=asker.secret,
            still=asker.still,
            takes_ids=self._is_behind_agent,
        ).again
