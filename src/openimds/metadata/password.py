"""The password document. The instance posts it once, encrypted with the user's public key. Each process in the instance
can read it.
"""

from __future__ import annotations

from http import HTTPStatus

from openimds.metadata.outcome import HTML, Document, MetadataError, Outcome, StorePassword
from openimds.resources.instance import Instance

MAX_PASSWORD_BYTES = 1020
"""Nova stores the password in four columns of 255 characters."""


def handle_password(instance: Instance, method: str, body: bytes | None) -> Outcome:
    """GET returns the password, POST stores it once. `body` is None if the request has neither Content-Length nor chunks.

    Raises MetadataError: 400 for other methods (including HEAD, as in nova), 409 if a password is set, 411 without a
    length, and 400 for a body that is too long or not UTF-8. The checks run in this order.
    """
    if method == "GET":
        return Document(200, HTML, (instance.password or "").encode())
    if method != "POST":
        raise MetadataError(HTTPStatus.BAD_REQUEST, "GET and POST only are supported.")
    if instance.password:
        raise password_refused()
    if body is None:
        raise MetadataError(HTTPStatus.LENGTH_REQUIRED, "A password needs a Content-Length, or to be sent in chunks.")
    if len(body) > MAX_PASSWORD_BYTES:
        raise MetadataError(
            HTTPStatus.BAD_REQUEST, f"Request is too large: a password has at most {MAX_PASSWORD_BYTES} bytes."
        )
    try:
        return StorePassword(body.decode())
    except UnicodeDecodeError:
        raise MetadataError(HTTPStatus.BAD_REQUEST, "The password must be text in UTF-8.") from None


def password_stored() -> Document:
    """The response after the password was stored."""
    return Document(200, HTML, b"")


def password_refused() -> MetadataError:
    """The error if the instance already has a password."""
    return MetadataError(HTTPStatus.CONFLICT, "This instance's password is already set.")
