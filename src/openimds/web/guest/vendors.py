"""Dynamic vendor data: each target is asked about the instance, all at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import structlog

from openimds.metadata.decision import Refusal
from openimds.resources.errors import PeerFailed

log = structlog.get_logger(__name__)


PostQuestion = Callable[[str, Mapping[str, Any]], Any]
"""(url, question) → the answer's JSON, None when it has no body. Raises PeerFailed. Blocks."""


@dataclass(frozen=True, slots=True)
class Target:
    name: str
    url: str


class Vendors:
    """All targets. Threads of its own, so that a slow target holds up nobody but those who ask it."""

    def __init__(
        self, targets: Sequence[Target], post: PostQuestion, executor: Executor, *, failure_is_fatal: bool = False
    ) -> None:
        self._targets = list({target.name: target for target in reversed(targets)}.values())[::-1]
        self._post = post
        self._executor = executor
        self._failure_is_fatal = failure_is_fatal

    async def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """What each said, under its name; `{}` for one that failed. Raises Refusal (503) when failures are fatal."""
        answers = await asyncio.gather(*(self._ask(target, question) for target in self._targets))
        return {target.name: answer for target, answer in zip(self._targets, answers, strict=True)}

    async def _ask(self, target: Target, question: Mapping[str, Any]) -> Any:
        loop = asyncio.get_running_loop()
        try:
            answer = await loop.run_in_executor(self._executor, self._post, target.url, question)
        except PeerFailed as error:
            log.warning("a vendor data target failed", target=target.name, error=error.message)
            if self._failure_is_fatal:
                raise Refusal(
                    503, f"The vendor data service {target.name} does not answer.", (("Retry-After", "1"),)
                ) from None
            return {}
        return {} if answer is None else answer
