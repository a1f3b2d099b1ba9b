"""The process that runs 200 polling clients (polling.py) in one namespace, and its counts."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.waiting import until

ANSWERS = 400
"""After this many further responses each polling client has sent another request."""


@dataclass(frozen=True, slots=True)
class Pollers:
    """The process of polling.py."""

    process: subprocess.Popen[str]

    def tally(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found

    def polled_on(self) -> None:
        """Waits until each client has received further responses."""
        enough = self.tally()["good"] + ANSWERS
        until(lambda: self.tally()["good"] >= enough, "the guests receive responses")


@contextmanager
def polling(*argv: str) -> Iterator[Pollers]:
    """Starts polling.py by `argv`, waits until each client has a response, and kills it at the end."""
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        pollers = Pollers(process)
        try:
            pollers.polled_on()
            yield pollers
        finally:
            process.kill()
