"""Requests that are answered by somebody else: the metadata API at the controller, which decides on its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from openimds.imds.messages import GuestRequest


class Reply(Protocol):
    """An answer passed on as it is. It carries the request's id already."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]: ...
    @property
    def body(self) -> bytes: ...
    @property
    def hop_limit(self) -> int | None: ...


UpstreamCall = Callable[[GuestRequest, str], Awaitable[Reply]]
"""(request, its id) → the answer. Never raises: that nobody answers is an answer too."""


class DelegateUpstream(Exception):
    """Who asks is known, but not what it is to be told."""

    def __init__(self, ask: UpstreamCall, instance_id: str, facts: Mapping[str, object]) -> None:
        super().__init__(f"the answer for {instance_id} is to be had elsewhere")
        self.ask = ask
        self.instance_id = instance_id
        self.facts = facts
        """For the log line."""
