"""Session tokens, as far as they decide what becomes of a request (IMDSv2).

In order: the endpoint of this instance is switched on (403); root asks, where only root may (403); the user data are not
yet closed (403); a token is asked for (200, 400, 403, 405); what is read
comes with a good token, or with none where none is required (401). Only then is looked whether the document is there.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from http import HTTPStatus

from openimds.metadata.imds_options import ImdsOptions, TokenMode
from openimds.metadata.openstack import is_password
from openimds.metadata.outcome import TEXT, Document, MetadataError, method_not_allowed
from openimds.metadata.paths import EC2, OPENSTACK, Path
from openimds.metadata.versions import LATEST

TOKEN = "X-aws-ec2-metadata-token"  # noqa: S105 - a header's name
TTL = "X-aws-ec2-metadata-token-ttl-seconds"
HOP_LIMIT = "X-Openimds-Hop-Limit"
"""For whoever writes the answer to the guest: the IP TTL of the packets that carry it. Not for the guest itself."""

_TOKEN_PATH = ("api", "token")
_USER_DATA = {EC2: ("user-data",), OPENSTACK: ("user_data",)}
_DATED = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}|1\.0", re.ASCII)


class TokenState(enum.Enum):
    """The token that came with a request."""

    NOTHING = enum.auto()
    GOOD = enum.auto()
    BAD = enum.auto()
    """Not of this instance, ended, or no token at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What a request's headers say, read and judged by whoever has the secrets."""

    presented: TokenState = TokenState.NOTHING
    ttl_seconds: int | None = None
    """How long a token is asked for; None when that is not said, or not between 1 and 21600."""
    is_forwarded: bool = False
    """The guest's own request carried X-Forwarded-For: a proxy in the guest passed on what somebody else sent."""
    is_roots: bool = False
    """It came from a port below 1024."""
    age_seconds: float | None = None
    """Since the instance's launch; None: it has not been launched, or nobody knows when."""


@dataclass(frozen=True, slots=True)
class IssueToken:
    """Make a token for this instance, then answer `token_answer()`."""

    ttl_seconds: int
    hop_limit: int


def check_session(method: str, path: Path, policy: ImdsOptions, session: Session) -> IssueToken | None:
    """None: go on to the document. Raises Refusal (400, 401, 403, 405)."""
    if not policy.http_endpoint:
        raise MetadataError(HTTPStatus.FORBIDDEN, "The metadata service is switched off for this instance.")
    if policy.root_only and not session.is_roots:
        raise MetadataError(HTTPStatus.FORBIDDEN, "Only root may ask here: send the request from a port below 1024.")
    if is_sealed(path, policy, session.age_seconds):
        raise MetadataError(
            HTTPStatus.FORBIDDEN, "The user data are closed: the time in which they could be read is over."
        )
    if not policy.gives_tokens:
        return None
    if path.tree == EC2 and path.parts[1:] == _TOKEN_PATH:
        if path.parts[0] == LATEST:
            return _asked_for_token(method, policy, session)
        if method == "PUT" and _DATED.fullmatch(path.parts[0]):
            raise MetadataError(HTTPStatus.FORBIDDEN, "Tokens are given at /latest/api/token alone.")
    if method in ("GET", "HEAD") or (path.tree == OPENSTACK and is_password(path.parts)):
        _check_token(path.tree, policy, session)
    return None


def is_sealed(path: Path, policy: ImdsOptions, age_seconds: float | None) -> bool:
    """Is this the user data of an instance whose time to read them is over?"""
    if not policy.user_data_minutes or age_seconds is None or path.parts[1:] != _USER_DATA[path.tree]:
        return False
    return age_seconds >= policy.user_data_minutes * 60


def token_answer(token: str, ttl_seconds: int, hop_limit: int) -> Document:
    headers = ((TTL, str(ttl_seconds)), ("Cache-Control", "no-store"), (HOP_LIMIT, str(hop_limit)))
    return Document(HTTPStatus.OK, TEXT, token.encode(), headers)


def _asked_for_token(method: str, policy: ImdsOptions, session: Session) -> IssueToken:
    if method != "PUT":
        raise method_not_allowed("PUT")
    if session.is_forwarded:
        raise MetadataError(HTTPStatus.FORBIDDEN, "A token is not given to a request that was forwarded.")
    if session.ttl_seconds is None:
        raise MetadataError(HTTPStatus.BAD_REQUEST, f"{TTL} must be a whole number from 1 to 21600.")
    return IssueToken(session.ttl_seconds, policy.http_put_response_hop_limit)


def _check_token(tree: str, policy: ImdsOptions, session: Session) -> None:
    if session.presented is TokenState.GOOD:
        return
    mode = policy.openstack_tokens if tree == OPENSTACK else policy.http_tokens
    if session.presented is TokenState.BAD and mode is not TokenMode.OFF:
        raise MetadataError(
            HTTPStatus.UNAUTHORIZED, f"{TOKEN} is not a good token: get a new one at /latest/api/token."
        )
    if mode is TokenMode.REQUIRED:
        raise MetadataError(HTTPStatus.UNAUTHORIZED, f"A token is required: PUT /latest/api/token, then send {TOKEN}.")
