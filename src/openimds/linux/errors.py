"""Errors of the kernel and of external programs."""

from __future__ import annotations

from collections.abc import Sequence


class ConfigureError(Exception):
    """Parts of the desired state could not be applied. The other parts were applied."""

    def __init__(self, subject: str, failures: Sequence[str]) -> None:
        self.subject = subject
        self.failures = tuple(failures)
        super().__init__(f"{subject}: {'; '.join(failures)}")


class ProgramError(Exception):
    """A program could not be started, exited with an error or timed out.

    The message contains the program's name and the end of its stderr, never its standard input.
    """

    def __init__(self, program: str, reason: str, *, exit_code: int | None = None) -> None:
        self.program = program
        self.reason = reason
        self.exit_code = exit_code
        super().__init__(f"{program}: {reason}")
