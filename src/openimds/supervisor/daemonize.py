"""A program that goes on in the background once it serves, and tells its starter until then."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

SERVING = "\0"
"""The last thing the starter is told when all is well; anything else before the end of the pipe is a failure."""

Say = Callable[[str], None]


def in_background(work: Callable[[Say, Callable[[], None]], int]) -> int:
    """Run `work(say, serving)` in a session of its own; returns here when it has called `serving`, or has ended.

    What it says is printed here. Returns 0 when it serves, its own code when it ended before.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        # Never back into the caller's code: this process ends here.
        os._exit(_in_child(work, writing))
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8", errors="replace") as told:
        text = ""
        for line in told:
            text = line
            print(line.removesuffix(SERVING + "\n"), end="", flush=True)  # noqa: T201 - for the person
    if text.endswith(SERVING + "\n"):
        return 0
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) or 1


def _in_child(work: Callable[[Say, Callable[[], None]], int], writing: int) -> int:
    os.setsid()
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    channel = os.fdopen(writing, "w", encoding="utf-8")

    def say(text: str) -> None:
        if not channel.closed:
            print(text, file=channel, flush=True)

    def serving() -> None:
        say(SERVING)
        channel.close()
        # The starter's stderr may be a terminal or a pipe that somebody waits for the end of.
        sys.stdout.flush()

    try:
        return work(say, serving)
    except BaseException as error:  # noqa: BLE001 - the last frame of this process
        say(f"{type(error).__name__}: {error}")
        return 1
