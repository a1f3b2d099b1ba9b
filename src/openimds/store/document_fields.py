"""Reading a document field by field, so that what is wrong in it is named: `instances[3].metadata`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from openimds.resources.errors import BadRequest

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fields:
    """An object of the document and where it stands. Every method raises BadRequest for a value of another type."""

    values: Mapping[str, Any]
    place: str

    @classmethod
    def of(cls, value: object, place: str) -> Fields:
        if not isinstance(value, Mapping):
            raise BadRequest(place, f"{place} must be an object")
        return cls(value, place)

    def wrong(self, name: str, sentence: str) -> BadRequest:
        field = f"{self.place}.{name}"
        return BadRequest(field, f"{field}: {sentence}")

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
        return value or 0

    def texts(self, name: str) -> dict[str, str]:
        """An object of texts; empty when missing."""
        value = {} if self.values.get(name) is None else self.values[name]
        if not isinstance(value, Mapping) or not all(isinstance(text, str) for text in value.values()):
            raise self.wrong(name, "it must be an object of texts")
        return dict(value)

    def objects(self, name: str) -> list[dict[str, Any]]:
        """A list of objects; empty when missing."""
        return [dict(part.values) for part in self.parts(name)]

    def parts(self, name: str) -> Iterator[Fields]:
        """The objects of a list, each knowing its place."""
        value = self.values.get(name)
        if not isinstance(value, list | None):
            raise self.wrong(name, "it must be a list of objects")
        for place, part in enumerate(value or ()):
            yield Fields.of(part, f"{self.place}.{name}[{place}]")

    def part(self, name: str) -> Fields | None:
        """An object; None when missing."""
        value = self.values.get(name)
        return None if value is None else Fields.of(value, f"{self.place}.{name}")

    def read(self, name: str, reader: Callable[[Any], T]) -> T:
        """What `reader` makes of the value. Raises BadRequest when it stumbles over it."""
        try:
            return reader(self.values.get(name))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self.wrong(name, f"it cannot be read ({type(error).__name__}: {error})") from error
