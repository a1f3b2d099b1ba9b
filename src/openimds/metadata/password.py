"""The password document: the guest posts it once, encrypted for its user, and anybody in the guest may read it."""

from __future__ import annotations

from http import HTTPStatus

from openimds.metadata.outcome import HTML, Document, MetadataError, Outcome, StorePassword
from openimds.resources.instance import Instance

MAX_PASSWORD_BYTES = 1020
"""nova keeps it in four columns of 255 characters."""


def decide_password(instance: Instance, method: str, body: bytes | None) -> Outcome:
    """GET answers the text, POST stores it once. `body` is None when the request did not say how long it is.

    Raises Refusal: 400 for other methods (HEAD, too: nova's clients see it so), 409, 411, and 400 for what is too long
    or no text. Already set is told before too long.
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
    """It is this one now."""
    return Document(200, HTML, b"")


def password_refused() -> MetadataError:
    """Another one was first."""
    return MetadataError(HTTPStatus.CONFLICT, "This instance's password is already set.")
