"""Session tokens: every worker accepts the tokens of the others, and the instance's properties apply."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import structlog

from openimds.http.messages import Request
from openimds.imds.session_tokens import PreviousHop, SessionTokens, TokenSettings
from openimds.metadata.imds_options import ImdsOptions, TokenMode
from openimds.metadata.outcome import Document, MetadataError
from openimds.metadata.paths import parse_path
from openimds.resources.instance import Ec2Ids, Instance

TOKEN_PATH = b"/latest/api/token"
LEAF = b"/latest/meta-data/hostname"
VM = Instance(
    id="11111111-2222-4333-8444-555555555501",
    project_id="p1",
    name="vm",
    hostname="vm",
    ec2_ids=Ec2Ids(instance_id="i-1"),
    flavor_name="tiny",
)
OTHER = replace(VM, id="11111111-2222-4333-8444-555555555502")
STRICT = replace(VM, metadata={"imds:HttpTokens": "required"})


def request(
    method: str = "GET",
    target: bytes = LEAF,
    headers: tuple[tuple[bytes, bytes], ...] = (),
    peer_port: int = 0,
) -> Request:
    return Request(method=method, target=target, headers=headers, peer_port=peer_port, listener="tcp")


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def worker(
    clock: Clock, *secrets: str, defaults: ImdsOptions | None = None, is_behind_agent: bool = True
) -> SessionTokens:
    settings = TokenSettings(secrets=secrets, previous_hop=PreviousHop.AGENT if is_behind_agent else PreviousHop.CLIENT)
    return SessionTokens(settings, defaults or ImdsOptions(), now=clock, random_bytes=os.urandom)


def admitted(sessions: SessionTokens, incoming: Request, instance: Instance = VM) -> Document | int | None:
    try:
        return sessions.admit(incoming, parse_path(incoming.target), instance)
    except MetadataError as error:
        return error.status


def put(*headers: tuple[bytes, bytes], ttl: bytes = b"60") -> Request:
    return request("PUT", TOKEN_PATH, ((b"x-aws-EC2-metadata-token-ttl-seconds", ttl), *headers))


def token(sessions: SessionTokens, instance: Instance = VM) -> bytes:
    document = admitted(sessions, put(), instance)
    assert isinstance(document, Document)
    return document.body


def with_token(text: bytes, method: str = "GET") -> Request:
    return request(method, headers=((b"X-Aws-Ec2-Metadata-Token", text),))


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_token_is_valid_in_every_worker_and_during_a_change_of_the_secret(clock) -> None:
    issued = token(worker(clock, "new", "old"))
    assert admitted(worker(clock, "new"), with_token(issued), STRICT) is None
    assert admitted(worker(clock, "newer", "new"), with_token(issued, "HEAD"), STRICT) is None
    assert admitted(worker(clock, "old"), with_token(issued), STRICT) == 401


def test_expired_token_and_token_of_another_instance_are_rejected(clock) -> None:
    sessions = worker(clock, "s")
    issued = token(sessions)
    assert admitted(sessions, with_token(issued), VM) is None
    assert admitted(sessions, with_token(issued), OTHER) == 401
    clock.now += 60
    assert admitted(sessions, with_token(issued), VM) == 401


def test_property_of_the_instance_requires_a_token(clock) -> None:
    sessions = worker(clock, "s")
    assert admitted(sessions, request(), STRICT) == 401
    assert admitted(sessions, with_token(b"nonsense"), STRICT) == 401
    assert admitted(sessions, with_token(token(sessions)), STRICT) is None
    assert admitted(sessions, request(target=b"/openstack/latest/meta_data.json"), STRICT) is None


@pytest.mark.parametrize("ttl", [b"0", b"21601", b"-5", b"x", b""])
def test_invalid_ttl_is_rejected(clock, ttl: bytes) -> None:
    assert admitted(worker(clock, "s"), put(ttl=ttl)) == 400


MISSING_TTL = request("PUT", TOKEN_PATH)
PASSED = (b"X-Openimds-Token-Headers", b"1")


def test_missing_ttl_is_404_behind_an_agent_that_drops_the_header(clock) -> None:
    """SDKs continue without a token after a 404. They fail after the 400 that they got behind Neutron's agent."""
    behind, direct = worker(clock, "s"), worker(clock, "s", is_behind_agent=False)
    proxied = SessionTokens(
        TokenSettings(secrets=("s",), previous_hop=PreviousHop.PROXY),
        ImdsOptions(),
        now=clock,
        random_bytes=os.urandom,
    )
    passed = request("PUT", TOKEN_PATH, (PASSED,))
    assert admitted(behind, MISSING_TTL) == 404
    assert [admitted(sessions, MISSING_TTL) for sessions in (direct, proxied)] == [400, 400]
    assert admitted(behind, passed) == 400
    assert admitted(behind, put(ttl=b"")) == 400, "the header arrived"
    assert isinstance(admitted(behind, put()), Document)


def test_dropped_token_headers_are_logged_once_if_tokens_are_required(clock) -> None:
    sessions = worker(clock, "s")
    with structlog.testing.capture_logs() as logs:
        assert [admitted(sessions, MISSING_TTL, vm) for vm in (VM, STRICT, STRICT)] == [404] * 3
    assert [line["event"] for line in logs] == ["required session tokens dropped by the metadata agent"]
    assert logs[0]["instance_id"] == STRICT.id


def test_duplicate_headers_are_rejected(clock) -> None:
    sessions = worker(clock, "s")
    assert admitted(sessions, put(put().headers[0])) == 400
    header = with_token(token(sessions)).headers[0]
    assert admitted(sessions, request(headers=(header, header))) == 400


def test_forwarded_token_request_is_rejected(clock) -> None:
    flag, one, two = (b"X-Openimds-Guest-Forwarded", b"1"), (b"X-Forwarded-For", b"10.0.0.5"), (b"Forwarded", b"for=x")
    behind, direct = worker(clock, "s"), worker(clock, "s", is_behind_agent=False)
    assert isinstance(admitted(behind, put(one)), Document)
    assert isinstance(admitted(direct, put()), Document)
    assert [admitted(behind, put(one, flag)), admitted(behind, put(one, two)), admitted(direct, put(one))] == [403] * 3


def test_token_response_has_the_hop_limit_of_the_instance(clock) -> None:
    document = admitted(worker(clock, "s"), put(), replace(VM, metadata={"imds:HttpPutResponseHopLimit": "3"}))
    assert isinstance(document, Document)
    assert dict(document.headers)["X-Openimds-Hop-Limit"] == "3"


def test_required_token_is_refused_without_a_secret(clock) -> None:
    """A path that requires a token is refused if no secret is configured, because no token can be issued."""
    sessions = worker(clock)
    assert admitted(sessions, put()) is None, "the request continues to the documents, which respond with 404"
    assert admitted(sessions, with_token(b"x")) is None
    assert admitted(sessions, request(), STRICT) == 401
    assert admitted(sessions, put(), STRICT) == 503
    assert admitted(worker(clock, defaults=ImdsOptions(http_tokens=TokenMode.REQUIRED)), request()) == 401


def test_invalid_property_is_logged_once(clock) -> None:
    sessions = worker(clock, "s")
    invalid = replace(VM, metadata={"imds:HttpTokens": "requierd", "team": "red"})
    with structlog.testing.capture_logs() as logs:
        assert admitted(sessions, request(), invalid) is None
        assert admitted(sessions, request(), invalid) is None
    (line,) = logs
    assert (line["property"], line["instance_id"]) == ("imds:HttpTokens", VM.id)
    assert "optional, required or off" in line["reason"]


def test_memory_of_logged_properties_is_limited(clock, monkeypatch) -> None:
    monkeypatch.setattr("openimds.imds.session_tokens._MAX_LOGGED_MISTAKES", 2)
    sessions = worker(clock, "s")
    with structlog.testing.capture_logs() as logs:
        for number in range(5):
            admitted(sessions, request(), replace(VM, metadata={"imds:HttpTokens": str(number)}))
    assert len(logs) == 5
    assert len(sessions._logged_mistakes) <= 2
