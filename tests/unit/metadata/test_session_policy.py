"""Access checks and token requests (IMDSv2)."""

from __future__ import annotations

import pytest

from openimds.metadata.imds_options import ImdsOptions, TokenMode
from openimds.metadata.outcome import MetadataError
from openimds.metadata.paths import parse_path
from openimds.metadata.session_policy import IssueToken, Session, TokenState, check_session, token_document

OPTIONAL = ImdsOptions()
REQUIRED = ImdsOptions(http_tokens=TokenMode.REQUIRED)
BOTH = ImdsOptions(http_tokens=TokenMode.REQUIRED, openstack_tokens=TokenMode.REQUIRED)
OPENSTACK_ALONE = ImdsOptions(http_tokens=TokenMode.OFF, openstack_tokens=TokenMode.REQUIRED)
OFF = ImdsOptions(http_tokens=TokenMode.OFF)
DISABLED = ImdsOptions(http_endpoint=False)

TOKEN = b"/latest/api/token"
LEAF = b"/latest/meta-data/hostname"
DOCUMENT = b"/openstack/latest/meta_data.json"
PASSWORD = b"/openstack/latest/password"

GOOD = Session(presented=TokenState.GOOD)
BAD = Session(presented=TokenState.BAD)
NOTHING = Session()
TTL = Session(ttl_seconds=60)


def outcome(method: str, target: bytes, policy: ImdsOptions, session: Session) -> int | IssueToken | None:
    try:
        return check_session(method, parse_path(target), policy, session)
    except MetadataError as refusal:
        return refusal.status


@pytest.mark.parametrize(
    ("method", "target", "session", "expected"),
    [
        ("PUT", TOKEN, TTL, IssueToken(60, 1)),
        ("PUT", b"/ec2/latest/api/token/", TTL, IssueToken(60, 1)),
        ("PUT", b"//latest/./api/token", TTL, IssueToken(60, 1)),
        ("PUT", TOKEN, Session(ttl_seconds=60, presented=TokenState.BAD), IssueToken(60, 1)),
        ("PUT", TOKEN, NOTHING, 400),
        ("PUT", TOKEN, Session(is_ttl_dropped=True), 404),
        ("PUT", TOKEN, Session(is_ttl_dropped=True, is_forwarded=True), 403),
        ("PUT", TOKEN, Session(ttl_seconds=60, is_forwarded=True), 403),
        ("PUT", b"/2021-03-23/api/token", TTL, 403),
        ("PUT", b"/2009-04-04/api/token", TTL, 403),
        ("PUT", b"/1.0/api/token", TTL, 403),
        ("GET", b"/2009-04-04/api/token", NOTHING, None),
        ("PUT", b"/nonsense/api/token", TTL, None),
        ("PUT", b"/openstack/latest/api/token", TTL, None),
        ("PUT", b"/latest/api/token/x", TTL, None),
        ("GET", TOKEN, NOTHING, 405),
        ("GET", TOKEN, GOOD, 405),
        ("HEAD", TOKEN, NOTHING, 405),
        ("POST", TOKEN, TTL, 405),
        ("put", TOKEN, TTL, 405),
        ("DELETE", TOKEN, NOTHING, 405),
        ("PUT", LEAF, NOTHING, None),
    ],
)
def test_token_request_is_issued_or_rejected(method: str, target: bytes, session: Session, expected: object) -> None:
    assert outcome(method, target, OPTIONAL, session) == expected


@pytest.mark.parametrize(
    ("policy", "target", "statuses"),
    [
        # results without a token, with a valid token, with an invalid token
        (OPTIONAL, LEAF, (None, None, 401)),
        (OPTIONAL, DOCUMENT, (None, None, 401)),
        (REQUIRED, LEAF, (401, None, 401)),
        (REQUIRED, b"/", (401, None, 401)),
        (REQUIRED, b"/ec2/1.0/meta-data", (401, None, 401)),
        (REQUIRED, b"/openstack/../latest/user-data", (401, None, 401)),
        (REQUIRED, b"/openstac%6b/%2e%2e/latest/user-data", (401, None, 401)),
        (REQUIRED, DOCUMENT, (None, None, 401)),
        (BOTH, DOCUMENT, (401, None, 401)),
        (BOTH, LEAF, (401, None, 401)),
        (OPENSTACK_ALONE, LEAF, (None, None, None)),
        (OPENSTACK_ALONE, DOCUMENT, (401, None, 401)),
        (OFF, LEAF, (None, None, None)),
        (OFF, DOCUMENT, (None, None, None)),
        (DISABLED, LEAF, (403, 403, 403)),
        (DISABLED, DOCUMENT, (403, 403, 403)),
        (DISABLED, b"/", (403, 403, 403)),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_read_needs_the_token_that_its_tree_requires(
    method: str, policy: ImdsOptions, target: bytes, statuses: tuple[int | None, ...]
) -> None:
    assert tuple(outcome(method, target, policy, session) for session in (NOTHING, GOOD, BAD)) == statuses


def test_password_needs_the_token_of_the_openstack_tree() -> None:
    assert outcome("POST", PASSWORD, BOTH, NOTHING) == 401
    assert outcome("POST", PASSWORD, BOTH, GOOD) is None
    assert outcome("POST", PASSWORD, REQUIRED, NOTHING) is None


def test_other_methods_are_left_to_the_router() -> None:
    assert outcome("DELETE", LEAF, BOTH, NOTHING) is None


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_token_path_is_ignored_if_tokens_are_off(method: str) -> None:
    assert outcome(method, TOKEN, OFF, TTL) is None
    assert outcome(method, TOKEN, DISABLED, TTL) == 403


def test_token_is_issued_if_only_the_openstack_tree_needs_one() -> None:
    assert outcome("PUT", TOKEN, OPENSTACK_ALONE, TTL) == IssueToken(60, 1)


def test_token_response_has_ttl_and_hop_limit() -> None:
    answer = token_document("abc", 60, 2)
    assert (answer.status, answer.body, answer.content_type) == (200, b"abc", "text/plain; charset=UTF-8")
    assert dict(answer.headers) == {
        "X-aws-ec2-metadata-token-ttl-seconds": "60",
        "Cache-Control": "no-store",
        "X-Openimds-Hop-Limit": "2",
    }


def test_405_names_the_allowed_method() -> None:
    with pytest.raises(MetadataError) as refused:
        check_session("GET", parse_path(TOKEN), OPTIONAL, NOTHING)
    assert refused.value.headers == (("Allow", "PUT"),)


ROOT_ONLY = ImdsOptions(root_only=True)
CLOSING = ImdsOptions(user_data_minutes=10)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "POST", "DELETE"])
@pytest.mark.parametrize("target", [LEAF, DOCUMENT, TOKEN, PASSWORD, b"/", b"/nope"])
def test_root_only_rejects_unprivileged_ports(method: str, target: bytes) -> None:
    assert outcome(method, target, ROOT_ONLY, TTL) == 403
    assert outcome(method, target, ROOT_ONLY, Session(from_privileged_port=True, ttl_seconds=60)) != 403


@pytest.mark.parametrize("target", [b"/latest/user-data", b"/2009-04-04/user-data/", b"/openstack/latest/user_data"])
def test_user_data_are_rejected_after_user_data_minutes(target: bytes) -> None:
    for age, expected in ((None, None), (0.0, None), (599.9, None), (600.0, 403), (1e9, 403)):
        assert outcome("GET", target, CLOSING, Session(age_seconds=age)) == expected
        assert outcome("HEAD", target, CLOSING, Session(age_seconds=age)) == expected
    assert outcome("GET", target, OPTIONAL, Session(age_seconds=1e9)) is None


@pytest.mark.parametrize(
    "target", [LEAF, DOCUMENT, b"/openstack/latest/user-data", b"/latest/user_data", b"/user-data"]
)
def test_user_data_minutes_do_not_affect_other_paths(target: bytes) -> None:
    assert outcome("GET", target, CLOSING, Session(age_seconds=1e9)) is None
