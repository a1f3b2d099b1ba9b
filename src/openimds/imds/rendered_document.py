"""Documents, rendered once for each version of an instance."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass

from openimds.metadata.outcome import Document

DRAWN_TOGETHER = 64

_LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_ANY_LETTER = _LETTERS * 4
"""A byte's letter: each stands for four of the 256 values."""
_LAST_LETTER = {1: _LETTERS[::16] * 64, 2: _LETTERS[::4] * 16}
"""Of a last group of one or two bytes: its letter holds two or four of their bits, and zeros (RFC 4648, section 4)."""

RandomBytes = Callable[[int], bytes]


@dataclass(frozen=True, slots=True, weakref_slot=True)
class RenderedDocument:
    """An answer that may be given again; its body is whole, or has a place where new random bytes belong."""

    answer: Document
    before: bytes = b""
    after: bytes = b""
    seed_bytes: int = 0
    """How many random bytes stand, as base64, between `before` and `after`; 0: the body is the answer's."""

    @property
    def size(self) -> int:
        return len(self.answer.body) + len(self.before) + len(self.after)

    def again(self, seeds: RandomSeeds) -> Document:
        """The answer; its body is new at every call if it has a random part."""
        if not self.seed_bytes:
            return self.answer
        body = b"".join((self.before, seeds.text(self.seed_bytes), self.after))
        return Document(self.answer.status, self.answer.content_type, body, self.answer.headers)


class RandomSeeds:
    """Random bytes as base64, each given once. Drawn for many documents together: a draw has a price of its own.

    Base64 of random bytes is random letters. So letters are drawn, which costs half of drawing bytes and encoding them.
    """

    def __init__(self, random_bytes: RandomBytes) -> None:
        self._random_bytes = random_bytes
        self._drawn: list[bytes] = []
        self._size = 0
        os.register_at_fork(after_in_child=self.forget)

    def text(self, size: int) -> bytes:
        """`size` random bytes, encoded."""
        if size != self._size or not self._drawn:
            self._draw(size)
        return self._drawn.pop()

    def forget(self) -> None:
        """What was drawn is not to be used: two processes would give the same."""
        self._drawn.clear()

    def _draw(self, size: int) -> None:
        groups, rest = divmod(size, 3)
        length = (groups + bool(rest)) * 4
        text = self._random_bytes(length * DRAWN_TOGETHER).translate(_ANY_LETTER)
        if rest:
            text = self._ended(text, length, rest)
        self._size = size
        self._drawn = [text[place : place + length] for place in range(0, length * DRAWN_TOGETHER, length)]

    def _ended(self, letters: bytes, length: int, rest: int) -> bytes:
        """These texts of `length` letters each, with the end that a last group of `rest` bytes has."""
        text = bytearray(letters)
        text[length - 4 + rest :: length] = self._random_bytes(DRAWN_TOGETHER).translate(_LAST_LETTER[rest])
        for missing in range(3 - rest):
            text[length - 1 - missing :: length] = b"=" * DRAWN_TOGETHER
        return bytes(text)


class SeedProbe:
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

    def rendered(self, answer: Document) -> RenderedDocument | None:
        """The answer with its place for random bytes; None when it cannot be told where they went."""
        if not self._given:
            return RenderedDocument(answer)
        before, found, after = answer.body.partition(b64encode(self._given[0]))
        if len(self._given) > 1 or not found or b64encode(self._given[0]) in after:
            return None
        bodiless = Document(answer.status, answer.content_type, b"", answer.headers)
        return RenderedDocument(bodiless, before, after, len(self._given[0]))
