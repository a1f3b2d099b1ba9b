"""The errors of the domain. control_api/error_handlers.py renders them as responses, and the command line prints them.

The message is a sentence for the client: the operation, its object, and what to do.
"""

from __future__ import annotations

import re


class OpenimdsError(Exception):
    """Base class. `kind` is Neutron's or Nova's name of the error, if it has one."""

    def __init__(self, message: str, *, kind: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.kind = kind


class BadRequest(OpenimdsError):
    """The request is malformed (400). `field` is the name of the invalid field."""

    def __init__(self, field: str, message: str, *, kind: str | None = None) -> None:
        super().__init__(message if _names(message, field) else f"{field}: {message}", kind=kind)
        self.field = field


def _names(message: str, field: str) -> bool:
    """Returns True if the message contains the field as a word: `the image has no id` does not name the field `i`."""
    return re.search(rf"(?<![\w:.-]){re.escape(field)}(?![\w-])", message) is not None


class Unauthorized(OpenimdsError):
    """The caller is not authenticated (401): no token, a wrong password, an expired token."""


class Forbidden(OpenimdsError):
    """The authenticated caller lacks the right for the operation (403)."""


class NotFound(OpenimdsError):
    """The object does not exist, or the caller's project cannot see it (404)."""


class Conflict(OpenimdsError):
    """The current state does not allow the operation (409): in use, taken, exhausted."""


class PreconditionFailed(OpenimdsError):
    """The object does not have the state that the caller named in If-Match (412)."""


class QuotaExceeded(OpenimdsError):
    """The project's quota is exceeded. The status is that of the service: 409 in Neutron, 403 elsewhere."""


class PayloadTooLarge(OpenimdsError):
    """The body exceeds the limit of the call (413)."""


class TooManyRequests(OpenimdsError):
    """The client reached a limit (429). It may try again after `retry_after_seconds`."""

    def __init__(self, message: str, *, retry_after_seconds: int) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class NotSupported(OpenimdsError):
    """OpenStack has the feature and openimds does not (501). The message names the feature."""


class StoreUnavailable(OpenimdsError):
    """The database cannot be read or written (503): full disk, read-only folder, unreachable server."""


class NotOffered(StoreUnavailable):
    """The control API does not offer instance records, or not the record of this instance. The agent forwards the request
    to the metadata API.
    """


class RevisionGone(OpenimdsError):
    """The change log does not contain the requested revision (410). The client must list the resources again."""


class PeerFailed(OpenimdsError):
    """A remote service did not respond or sent an invalid response."""
