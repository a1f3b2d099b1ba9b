"""Documents, rendered once for each version of an instance."""

from __future__ import annotations

import os
from base64 import b64encode
from binascii import b2a_base64
from collections.abc import Callable
from dataclasses import dataclass

from openimds.metadata.decision import Answer

RandomBytes = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Rendered:
    """An answer that may be given again; its body is whole, or has a place where new random bytes belong."""

    answer: Answer
    before: bytes = b""
    after: bytes = b""
    seed_bytes: int = 0
    """How many random bytes stand, as base64, between `before` and `after`; 0: the body is the answer's."""

    @property
    def size(self) -> int:
        return len(self.answer.body) + len(self.before) + len(self.after)

    def body(self, random_bytes: RandomBytes) -> bytes:
        """New at every call if it has a random part."""
        if not self.seed_bytes:
            return self.answer.body
        return b"".join((self.before, b2a_base64(random_bytes(self.seed_bytes), newline=False), self.after))

    def again(self, random_bytes: RandomBytes) -> Answer:
        if not self.seed_bytes:
            return self.answer
        return Answer(self.answer.status, self.answer.content_type, self.body(random_bytes), self.answer.headers)


class SeedPlace:
    """Stands for the random bytes while a document is rendered, so that their place in it can be found."""

    def __init__(self) -> None:
        self._given: list[bytes] = []

    @property
    def is_used(self) -> bool:
        return bool(self._given)

    def random_bytes(self, count: int) -> bytes:
        # Random itself: no instance's own data can look like it.
        self._given.append(os.urandom(count))
        return self._given[-1]

    def rendered(self, answer: Answer) -> Rendered | None:
        """The answer with its place for random bytes; None when it cannot be told where they went."""
        if not self._given:
            return Rendered(answer)
        before, found, after = answer.body.partition(b64encode(self._given[0]))
        if len(self._given) > 1 or not found or b64encode(self._given[0]) in after:
            return None
        bodiless = Answer(answer.status, answer.content_type, b"", answer.headers)
        return Rendered(bodiless, before, after, len(self._given[0]))
