"""What can go wrong between an agent and the control API."""

from __future__ import annotations


class ControlApiError(Exception):
    """A call did not succeed. `str(error)` is a sentence: what was asked of whom, and what came back.

    `status` is the HTTP status, None when no answer came. Secrets and tokens are never part of it.
    """

    def __init__(self, sentence: str, status: int | None = None) -> None:
        super().__init__(sentence)
        self.status = status


class NoWatchError(ControlApiError):
    """The cloud has no `instance-metadata` service: it is a real OpenStack, and is asked by Neutron's calls."""


class RevisionGoneError(ControlApiError):
    """The changes since that revision are not known any more: take a snapshot again."""
