"""Reading a document field by field, so that what is wrong in it is named: `instances[3].metadata`."""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from openimds.resources.errors import BadRequest

T = TypeVar("T")

MAX_NUMBER = 2**31 - 1
"""What an integer column holds in every database."""


@dataclass(frozen=True, slots=True)
class FieldReader:
    """An object of the document and where it stands. Every method raises BadRequest for a value of another type."""

    values: Mapping[str, Any]
    place: str

    @classmethod
    def of(cls, value: object, place: str) -> FieldReader:
        if not isinstance(value, Mapping):
            raise BadRequest(place, f"{place} must be an object")
        return cls(value, place)

    def wrong(self, name: str, sentence: str) -> BadRequest:
        field = f"{self.place}.{name}"
        return BadRequest(field, f"{field}: {sentence}")

    def only(self, known: frozenset[str]) -> None:
        """Refuse a field that nobody reads: most often it is a typing error."""
        unknown = sorted(str(name) for name in self.values if name not in known)
        if unknown:
            raise self.wrong(unknown[0], f"there is no such field; these are known: {', '.join(sorted(known))}")

    def text(self, name: str) -> str:
        value = self.optional_text(name)
        if not value:
            raise self.wrong(name, "it must be a text that is not empty")
        return value

    def optional_text(self, name: str) -> str | None:
        value = self.values.get(name)
        if value is not None and not isinstance(value, str):
            raise self.wrong(name, "it must be a text or null")
        return value

    def number(self, name: str) -> int:
        """0 when missing."""
        value = self.values.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise self.wrong(name, "it must be a whole number")
        if not 0 <= (value or 0) <= MAX_NUMBER:
            raise self.wrong(name, f"{value} is not between 0 and {MAX_NUMBER}")
        return value or 0

    def flag(self, name: str) -> bool:
        """False when missing."""
        value = self.values.get(name)
        if not isinstance(value, bool | None):
            raise self.wrong(name, "it must be true or false")
        return bool(value)

    def parsed(self, name: str, reader: Callable[[str], str], what: str) -> str:
        """What `reader` makes of the text; `what` tells what it takes: `a network like 10.0.0.0/24`."""
        text = self.text(name)
        try:
            return reader(text)
        except ValueError:
            raise self.wrong(name, f"{text[:80]!r} is not {what}") from None

    def base64(self, name: str) -> bytes:
        """Empty when missing; line breaks are passed over."""
        try:
            return b64decode("".join((self.optional_text(name) or "").split()), validate=True)
        except (binascii.Error, ValueError):
            raise self.wrong(name, "it is not base64") from None

    def strings(self, name: str, reader: Callable[[str], str] = str) -> list[str]:
        """A list of texts, each as `reader` makes it; a ValueError of its becomes the sentence."""
        value = self.values.get(name)
        if not isinstance(value, list | None):
            raise self.wrong(name, "it must be a list of texts")
        found = []
        for place, text in enumerate(value or ()):
            if not isinstance(text, str):
                raise self.wrong(f"{name}[{place}]", "it must be a text")
            try:
                found.append(reader(text))
            except ValueError as error:
                raise self.wrong(f"{name}[{place}]", str(error)) from None
        return found

    def texts(self, name: str) -> dict[str, str]:
        """An object of texts; empty when missing."""
        value = {} if self.values.get(name) is None else self.values[name]
        if not isinstance(value, Mapping) or not all(isinstance(text, str) for text in value.values()):
            raise self.wrong(name, "it must be an object of texts")
        return dict(value)

    def objects(self, name: str) -> list[dict[str, Any]]:
        """A list of objects; empty when missing."""
        return [dict(part.values) for part in self.parts(name)]

    def parts(self, name: str, single: str | None = None) -> Iterator[FieldReader]:
        """The objects of a list, each knowing its place. `single`: a text stands for an object with this one field."""
        value = self.values.get(name)
        if not isinstance(value, list | None):
            raise self.wrong(name, "it must be a list of objects")
        for place, part in enumerate(value or ()):
            whole = {single: part} if single is not None and isinstance(part, str) else part
            yield FieldReader.of(whole, f"{self.place}.{name}[{place}]")

    def part(self, name: str) -> FieldReader | None:
        """An object; None when missing."""
        value = self.values.get(name)
        return None if value is None else FieldReader.of(value, f"{self.place}.{name}")

    def read(self, name: str, reader: Callable[[Any], T]) -> T:
        """What `reader` makes of the value. Raises BadRequest when it stumbles over it."""
        try:
            return reader(self.values.get(name))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self.wrong(name, f"it cannot be read ({type(error).__name__}: {error})") from error
