"""Tokens at the service: given by one worker, taken by another, judged by the instance's own properties."""

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


def admitted(sessions: SessionTokens, ask: Request, instance: Instance = VM) -> Document | int | None:
    try:
        return sessions.admit(ask, parse_path(ask.target), instance)
    except MetadataError as refusal:
        return refusal.status


def put(*headers: tuple[bytes, bytes], ttl: bytes = b"60") -> Request:
    return request("PUT", TOKEN_PATH, ((b"x-aws-EC2-metadata-token-ttl-seconds", ttl), *headers))


def token(sessions: SessionTokens, instance: Instance = VM) -> bytes:
    answer = admitted(sessions, put(), instance)
    assert isinstance(answer, Document)
    return answer.body


def with_token(text: bytes, method: str = "GET") -> Request:
    return request(method, headers=((b"X-Aws-Ec2-Metadata-Token", text),))


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_holds_across_workers_and_while_the_secret_is_changed(clock) -> None:
    given = token(worker(clock, "new", "old"))
    assert admitted(worker(clock, "new"), with_token(given), STRICT) is None
    assert admitted(worker(clock, "newer", "new"), with_token(given, "HEAD"), STRICT) is None
    assert admitted(worker(clock, "old"), with_token(given), STRICT) == 401


def test_of_one_instance_and_for_a_time(clock) -> None:
    sessions = worker(clock, "s")
    given = token(sessions)
    assert admitted(sessions, with_token(given), VM) is None
    assert admitted(sessions, with_token(given), OTHER) == 401
    clock.now += 60
    assert admitted(sessions, with_token(given), VM) == 401


def test_required_by_a_property(clock) -> None:
    sessions = worker(clock, "s")
    assert admitted(sessions, request(), STRICT) == 401
    assert admitted(sessions, with_token(b"nonsense"), STRICT) == 401
    assert admitted(sessions, with_token(token(sessions)), STRICT) is None
    assert admitted(sessions, request(target=b"/openstack/latest/meta_data.json"), STRICT) is None


@pytest.mark.parametrize("ttl", [b"0", b"21601", b"-5", b"x", b""])
def test_a_bad_ttl(clock, ttl: bytes) -> None:
    assert admitted(worker(clock, "s"), put(ttl=ttl)) == 400


def test_headers_twice(clock) -> None:
    sessions = worker(clock, "s")
    assert admitted(sessions, put(put().headers[0])) == 400
    given = with_token(token(sessions)).headers[0]
    assert admitted(sessions, request(headers=(given, given))) == 400


def test_forwarded(clock) -> None:
    flag, one, two = (b"X-Openimds-Guest-Forwarded", b"1"), (b"X-Forwarded-For", b"10.0.0.5"), (b"Forwarded", b"for=x")
    behind, direct = worker(clock, "s"), worker(clock, "s", is_behind_agent=False)
    assert isinstance(admitted(behind, put(one)), Document)
    assert isinstance(admitted(direct, put()), Document)
    assert [admitted(behind, put(one, flag)), admitted(behind, put(one, two)), admitted(direct, put(one))] == [403] * 3


def test_the_hop_limit_is_told(clock) -> None:
    answer = admitted(worker(clock, "s"), put(), replace(VM, metadata={"imds:HttpPutResponseHopLimit": "3"}))
    assert isinstance(answer, Document)
    assert dict(answer.headers)["X-Openimds-Hop-Limit"] == "3"


def test_without_a_secret(clock) -> None:
    """Nothing is given; what must have a token stays shut."""
    sessions = worker(clock)
    assert admitted(sessions, put()) is None, "it goes on to the documents, where nothing is found"
    assert admitted(sessions, with_token(b"x")) is None
    assert admitted(sessions, request(), STRICT) == 401
    assert admitted(sessions, put(), STRICT) == 503
    assert admitted(worker(clock, defaults=ImdsOptions(http_tokens=TokenMode.REQUIRED)), request()) == 401


def test_a_property_that_cannot_be_read_is_told_once(clock) -> None:
    sessions = worker(clock, "s")
    wrong = replace(VM, metadata={"imds:HttpTokens": "requierd", "team": "red"})
    with structlog.testing.capture_logs() as logs:
        assert admitted(sessions, request(), wrong) is None
        assert admitted(sessions, request(), wrong) is None
    (line,) = logs
    assert (line["property"], line["instance_id"]) == ("imds:HttpTokens", VM.id)
    assert "optional, required or off" in line["reason"]


def test_what_was_told_does_not_grow_for_ever(clock, monkeypatch) -> None:
    monkeypatch.setattr("openimds.imds.session_tokens._MAX_LOGGED_MISTAKES", 2)
    sessions = worker(clock, "s")
    with structlog.testing.capture_logs() as logs:
        for number in range(5):
            admitted(sessions, request(), replace(VM, metadata={"imds:HttpTokens": str(number)}))
    assert len(logs) == 5
    assert len(sessions._logged_mistakes) <= 2
