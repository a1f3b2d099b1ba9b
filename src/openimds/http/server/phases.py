"""What a connection waits for: each phase has its own time-out (rules.Timeouts has a field of each one's name)."""

from __future__ import annotations

from enum import Enum

from openimds.http.server.request_parser import Stage


class Phase(Enum):
    """What the deadline is for."""

    IDLE = "idle"
    HEAD = "head"
    BODY = "body"
    ANSWER = "answer"
    WRITE = "write"
    LINGER = "linger"


PHASE_OF_STAGE = {Stage.IDLE: Phase.IDLE, Stage.HEAD: Phase.HEAD, Stage.BODY: Phase.BODY}
