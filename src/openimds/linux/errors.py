"""What can go wrong at the kernel's border."""

from __future__ import annotations

from collections.abc import Sequence


class ConfigureError(Exception):
    """Some of what was wanted of a namespace could not be made; the rest was."""

    def __init__(self, subject: str, failures: Sequence[str]) -> None:
        self.subject = subject
        self.failures = tuple(failures)
        super().__init__(f"{subject}: {'; '.join(failures)}")


class ProgramError(Exception):
    """A program could not be started, ended with an error or did not end in time.

    The message carries the program's name and the tail of what it wrote to stderr, never its standard input.
    """

    def __init__(self, program: str, reason: str, *, exit_code: int | None = None) -> None:
        self.program = program
        self.reason = reason
        self.exit_code = exit_code
        super().__init__(f"{program}: {reason}")
