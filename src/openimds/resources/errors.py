"""What can go wrong in the domain, in few words. Each edge that answers people turns these into its own form in one
place (control_api/error_handlers.py, cli); the message is a sentence for whoever asked: what was tried, on what, what to do.
"""

from __future__ import annotations


class OpenimdsError(Exception):
    """The base of all of them. `kind` is the name that Neutron or Nova has for this error, where it has one."""

    def __init__(self, message: str, *, kind: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.kind = kind


class BadRequest(OpenimdsError):
    """The request is malformed (400). `field` names what is wrong in it."""

    def __init__(self, field: str, message: str, *, kind: str | None = None) -> None:
        super().__init__(message if field in message else f"{field}: {message}", kind=kind)
        self.field = field


class Unauthorized(OpenimdsError):
    """Nobody we know (401): no token, a wrong password, an expired token."""


class Forbidden(OpenimdsError):
    """Somebody we know, who may not do this (403)."""


class NotFound(OpenimdsError):
    """It is not there, or not for this project to see (404)."""


class Conflict(OpenimdsError):
    """What is there does not allow it now (409): in use, taken, exhausted."""


class PreconditionFailed(OpenimdsError):
    """It is no longer, or not yet, as the caller thinks (412)."""


class QuotaExceeded(OpenimdsError):
    """More than this project may have (403 or 409 or 413, as the service has it)."""


class PayloadTooLarge(OpenimdsError):
    """The body is larger than this call takes (413)."""


class TooManyRequests(OpenimdsError):
    """The client reached a limit (429). It may try again after `retry_after_seconds`."""

    def __init__(self, message: str, *, retry_after_seconds: int) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class NotSupported(OpenimdsError):
    """OpenStack has it and openimds has not (501). The sentence names what is missing."""


class StoreUnavailable(OpenimdsError):
    """The database did not answer or cannot be written: full disk, read-only folder, server away (503)."""


class NotOffered(StoreUnavailable):
    """This cloud's control API does not tell instances' records, or not this one's: ask upstream instead."""


class RevisionGone(OpenimdsError):
    """Changes after the asked revision are no longer, or not yet, known (410): list again."""


class PeerFailed(OpenimdsError):
    """Another service that was asked did not answer, or not as it should (503, or what is known without it)."""
