"""Two hundred guests that poll (polling.py, running in one namespace), and what they have been told so far."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.waiting import until

ANSWERS = 400
"""That many more answers have been had when every one of the pollers has asked anew."""


@dataclass(frozen=True, slots=True)
class Pollers:
    """The polling process."""

    process: subprocess.Popen[str]

    def tally(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found

    def polled_on(self) -> None:
        """All of them go on being answered."""
        enough = self.tally()["good"] + ANSWERS
        until(lambda: self.tally()["good"] >= enough, "the guests are answered")


@contextmanager
def polling(*argv: str) -> Iterator[Pollers]:
    """While all of them are answered; `argv` runs polling.py in the guest's namespace."""
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        pollers = Pollers(process)
        try:
            pollers.polled_on()
            yield pollers
        finally:
            process.kill()
