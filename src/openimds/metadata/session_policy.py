"""The access checks before a document is looked up (IMDSv2 session tokens and the `imds:` options).

The checks run in this order:

1. The instance's endpoint is enabled (403).
2. The request comes from a privileged port if the option root_only is set (403).
3. The user data are still readable (403).
4. A request for a token is answered (200, 400, 403, 404, 405).
5. A read has a valid token, or no token if none is required (401).
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from http import HTTPStatus

from openimds.metadata.imds_options import ImdsOptions, TokenMode
from openimds.metadata.openstack import is_password
from openimds.metadata.outcome import TEXT, Document, MetadataError, method_not_allowed, not_found
from openimds.metadata.paths import EC2, LATEST, OPENSTACK, Path

TOKEN = "X-aws-ec2-metadata-token"  # noqa: S105 - a header's name
TTL = "X-aws-ec2-metadata-token-ttl-seconds"
HOP_LIMIT = "X-Openimds-Hop-Limit"
"""IP TTL of the packets that carry the response. The program that sends the response to the instance applies this header
and removes it."""

_TOKEN_PATH = ("api", "token")
_USER_DATA = {EC2: ("user-data",), OPENSTACK: ("user_data",)}
_DATED = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}|1\.0", re.ASCII)


class TokenState(enum.Enum):
    """State of the token in a request."""

    NOTHING = enum.auto()
    GOOD = enum.auto()
    BAD = enum.auto()
    """The token is malformed, expired, or belongs to another instance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """The facts about a request that the checks need. The caller has already verified the token."""

    presented: TokenState = TokenState.NOTHING
    ttl_seconds: int | None = None
    """Requested TTL of a new token. None if the header is missing or not a number from 1 to 21600."""
    is_ttl_dropped: bool = False
    """True if the header is missing, and the metadata agent in front drops it, as Neutron's agent does."""
    is_forwarded: bool = False
    """True if the instance's request has X-Forwarded-For: a proxy in the instance forwarded it for another client."""
    from_privileged_port: bool = False
    """True if the source port is below 1024."""
    age_seconds: float | None = None
    """Time since the instance's launch. None if the launch time is not known."""


@dataclass(frozen=True, slots=True)
class IssueToken:
    """The handler issues a token for this instance and responds with `token_document()`."""

    ttl_seconds: int
    hop_limit: int


def check_session(method: str, path: Path, policy: ImdsOptions, session: Session) -> IssueToken | None:
    """Runs the checks. Returns None if the document can be served. Raises MetadataError (400, 401, 403, 404, 405)."""
    if not policy.http_endpoint:
        raise MetadataError(HTTPStatus.FORBIDDEN, "The metadata service is switched off for this instance.")
    if policy.root_only and not session.from_privileged_port:
        raise MetadataError(HTTPStatus.FORBIDDEN, "Only root may ask here: send the request from a port below 1024.")
    if is_user_data_closed(path, policy, session.age_seconds):
        raise MetadataError(
            HTTPStatus.FORBIDDEN, "The user data are closed: the time in which they could be read is over."
        )
    if not issues_tokens(policy):
        return None
    if path.tree == EC2 and path.parts[1:] == _TOKEN_PATH:
        if path.parts[0] == LATEST:
            return _token_request(method, policy, session)
        if method == "PUT" and _DATED.fullmatch(path.parts[0]):
            raise MetadataError(HTTPStatus.FORBIDDEN, "Tokens are given at /latest/api/token alone.")
    if method in ("GET", "HEAD") or (path.tree == OPENSTACK and is_password(path.parts)):
        _check_token(path.tree, policy, session)
    return None


def issues_tokens(policy: ImdsOptions) -> bool:
    """Returns whether the instance can get session tokens."""
    return policy.http_tokens is not TokenMode.OFF or policy.openstack_tokens is TokenMode.REQUIRED


def is_user_data_closed(path: Path, policy: ImdsOptions, age_seconds: float | None) -> bool:
    """Returns True for the user data of an instance if user_data_minutes have passed since its launch."""
    if not policy.user_data_minutes or age_seconds is None or path.parts[1:] != _USER_DATA[path.tree]:
        return False
    return age_seconds >= policy.user_data_minutes * 60


def token_document(token: str, ttl_seconds: int, hop_limit: int) -> Document:
    headers = ((TTL, str(ttl_seconds)), ("Cache-Control", "no-store"), (HOP_LIMIT, str(hop_limit)))
    return Document(HTTPStatus.OK, TEXT, token.encode(), headers)


def _token_request(method: str, policy: ImdsOptions, session: Session) -> IssueToken:
    if method != "PUT":
        raise method_not_allowed("PUT")
    if session.is_forwarded:
        raise MetadataError(HTTPStatus.FORBIDDEN, "A token is not given to a request that was forwarded.")
    if session.is_ttl_dropped:
        raise not_found()  # SDKs then continue without a token (IMDSv1), which they do not after a 400
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
