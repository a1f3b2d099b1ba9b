"""The errors of calls to the control API."""

from __future__ import annotations


class ControlApiError(Exception):
    """A call failed. The message names the call, the service and the response. It contains no secrets or tokens.

    `status` is the HTTP status, and None if no response arrived.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class NoWatchError(ControlApiError):
    """The catalog has no `instance-metadata` service, as in an OpenStack cloud. Neutron's calls replace the watch."""


class LoginRefusedError(ControlApiError):
    """Keystone refused the credentials, and no login is attempted before `retry_seconds` have passed."""

    def __init__(self, message: str, retry_seconds: float) -> None:
        super().__init__(message, 401)
        self.retry_seconds = retry_seconds


class RevisionGoneError(ControlApiError):
    """The change log no longer contains the changes since the revision. The caller must take a new snapshot."""
