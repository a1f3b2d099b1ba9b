"""One thing's parts, made one after the other: what fails keeps the others from nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable


class CombinedError(Exception):
    """Some parts could not be made; the others were. The message has them all."""


class ErrorCollector:
    def __init__(self) -> None:
        self.changes: list[str] = []
        """What was done, in words."""
        self._failures: list[Exception] = []

    def do(self, work: Callable[[], Iterable[str]]) -> None:
        try:
            self.changes += work()
        except Exception as error:  # noqa: BLE001 - a thing's broken part must not keep its others from being served
            self._failures.append(error)

    def end(self) -> None:
        """Raises what the one failed step raised, or CombinedError with what all of them said."""
        if len(self._failures) == 1:
            raise self._failures[0]
        if self._failures:
            said = "; ".join(str(error) or type(error).__name__ for error in self._failures)
            raise CombinedError(said) from self._failures[0]
