"""The service from outside: requests in, answers out."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import structlog

from openimds.guest_identity.signature import sign
from openimds.http.messages import Request, Response
from openimds.imds.authenticators import AddressAuthenticator, AuthenticatedInstance, SignatureAuthenticator
from openimds.imds.handler import MetadataHandler
from openimds.imds.instance_cache import InstanceCache
from openimds.imds.vendordata import Target, VendordataTargets, VendordataTimeouts
from openimds.metadata.context import DocumentSettings
from openimds.resources.errors import PeerFailed
from openimds.resources.instance import VendordataResponse

SECRET = "s3cret"
ID = "11111111-2222-4333-8444-555555555501"
HOSTNAME = b"/latest/meta-data/hostname"
PASSWORD = b"/openstack/latest/password"


def request(
    target: bytes = HOSTNAME,
    method: str = "GET",
    headers: tuple[tuple[bytes, bytes], ...] = (),
    body: bytes = b"",
    peer: str = "10.0.0.5",
) -> Request:
    return Request(method=method, target=target, headers=headers, body=body, peer=peer, listener="tcp")


def signed(*more: tuple[bytes, bytes], secret: str = SECRET, project: bytes = b"p1", instance_id: str = ID):
    return (
        (b"X-Instance-ID", instance_id.encode()),
        (b"X-Tenant-ID", project),
        (b"X-Instance-ID-Signature", sign(secret, instance_id).encode()),
        *more,
    )


@pytest.fixture
def play(instances, threads) -> Callable[..., list[Response]]:
    """Send requests, one after the other, to one service; a function between them is called."""

    def run(*steps: Request | Callable[[], None], **options: Any) -> list[Response]:
        return asyncio.run(_play(steps, options))

    async def _play(steps: tuple[Request | Callable[[], None], ...], options: dict[str, Any]) -> list[Response]:
        records = InstanceCache(threads)
        instances.heard = records.forget
        service = MetadataHandler(
            authenticator=SignatureAuthenticator(instances, records, options.get("secrets", [SECRET]))
            if options.get("signed", True)
            else AddressAuthenticator(instances, records),
            records=records,
            passwords=instances,
            settings=DocumentSettings(dynamic_vendor_data="vendors" in options),
            executor=threads,
            vendors=options["vendors"]() if "vendors" in options else None,
        )
        answers = []
        for step in steps:
            if isinstance(step, Request):
                answers.append(await service.handle(step))
            else:
                step()
        return answers

    return run


def header(answer: Response, name: bytes) -> bytes | None:
    return dict(answer.headers).get(name)


def test_a_request_whose_guest_hung_up_is_in_the_log(instances, threads) -> None:
    """It may have stored something; and nobody shall ask unseen."""

    class Waiting:
        def admit(self, _request: object) -> None: ...

        def identifies(self, _request: object) -> bool:
            return True

        def at_once(self, _request: object) -> None:
            """Nobody is known here."""

        async def asker(self, _request: object) -> AuthenticatedInstance:
            await asyncio.Event().wait()
            raise AssertionError

    async def main() -> None:
        service = MetadataHandler(
            authenticator=Waiting(),
            records=InstanceCache(threads),
            passwords=instances,
            settings=DocumentSettings(),
            executor=threads,
        )
        asking = asyncio.create_task(service.handle(request(PASSWORD, "POST")))
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    with structlog.testing.capture_logs() as lines:
        asyncio.run(main())
    assert [(line["event"], line["method"], line["path"]) for line in lines] == [
        ("request given up by its guest", "POST", PASSWORD.decode())
    ]


def test_what_is_given_again_keeps_nothing_of_a_record_that_is_gone(play, instances) -> None:
    """A guest may ask something new for every version of its instance, and never again: memory must not grow by it."""
    held: list[weakref.ref[Any]] = []

    def change() -> None:
        instances.put(replace(instances.instances[ID], user_data=b"x"))

    (answer,) = play(request(headers=signed()), change)
    again = answer.replay
    assert again is not None
    held += [again.__self__.record, again.__self__.rendered]
    gc.collect()
    assert [one() for one in held] == [None, None]
    assert again(b"") is None


def test_a_signed_request(play) -> None:
    (answer,) = play(request(headers=signed()))
    assert (answer.status, answer.body) == (200, b"vm.novalocal")
    assert header(answer, b"Content-Type") == b"text/plain; charset=UTF-8"


@pytest.mark.parametrize(
    ("headers", "status", "sentence"),
    [
        ((), 400, b"X-Instance-ID header is missing"),
        (signed()[:1], 400, b"X-Instance-ID-Signature header is missing"),
        ((signed()[0], signed()[2]), 400, b"X-Tenant-ID header is missing"),
        (signed(signed()[0]), 400, b"Multiple X-Instance-ID headers"),
        (signed(secret="other"), 403, b"Invalid proxy request signature."),
        (signed(project=b"p2"), 404, b"could not be found"),
        (signed(instance_id="nobody"), 404, b"could not be found"),
    ],
)
@pytest.mark.parametrize("target", [HOSTNAME, b"/nope"])
def test_who_is_not_answered(play, target: bytes, headers, status: int, sentence: bytes) -> None:
    (answer,) = play(request(target, headers=headers))
    assert answer.status == status
    assert sentence in answer.body


def test_the_order_of_checks_hides_what_is_there(play) -> None:
    unknown, other = play(
        request(b"/nope", headers=signed(instance_id="x")), request(b"/nope", headers=signed(project=b"p2"))
    )
    assert unknown.body == other.body


def test_the_root_is_everybodys(play) -> None:
    (answer,) = play(request(b"/"))
    assert answer.status == 200


def test_a_secret_that_differs_is_said_in_the_log(play) -> None:
    with structlog.testing.capture_logs() as logs:
        play(request(headers=signed(secret="SECRETE_KEY")), secrets=["SECRET_KEY"])
    text = json.dumps(logs)
    assert "metadata_proxy_shared_secret" in text
    assert sign("SECRETE_KEY", ID) not in text
    assert '"SECRET' not in text


def test_during_a_rotation_both_secrets_are_good(play) -> None:
    answers = play(request(headers=signed(secret="new")), request(headers=signed(secret="old")), secrets=["new", "old"])
    assert [answer.status for answer in answers] == [200, 200]


def test_a_malformed_target(play) -> None:
    (answer,) = play(request(b"latest", headers=signed()))
    assert answer.status == 400


def test_errors_in_json(play) -> None:
    (answer,) = play(request(b"/nope", headers=signed((b"Accept", b"application/json"))))
    assert json.loads(answer.body)["code"] == "404 Not Found"


def test_the_request_id_goes_along(play) -> None:
    given = b"req-0a1b2c3d-0000-4000-8000-0123456789ab"
    taken, new, forged = play(
        request(headers=signed((b"X-Openstack-Request-Id", given))),
        request(headers=signed()),
        request(headers=signed((b"X-Openstack-Request-Id", b"req-x\nforged"))),
    )
    assert header(taken, b"X-Openstack-Request-Id") == given
    ids = {header(answer, b"X-Openstack-Request-Id") for answer in (new, forged)}
    assert len(ids) == 2
    assert all(one is not None and one.startswith(b"req-") and len(one) == len(given) for one in ids)


def test_the_log_has_no_bodies(play) -> None:
    with structlog.testing.capture_logs() as logs:
        play(request(PASSWORD + b"?token=hush", "POST", signed((b"Content-Length", b"6")), b"geheim"))
    (line,) = [line for line in logs if line["event"] == "request answered"]
    assert (line["instance_id"], line["path"], line["status"]) == (ID, PASSWORD.decode(), 200)
    assert "geheim" not in json.dumps(logs)
    assert "hush" not in json.dumps(logs)


def test_a_password_is_stored_once_and_shows_at_once(play) -> None:
    def post(text: bytes) -> Request:
        return request(PASSWORD, "POST", signed((b"Content-Length", b"%d" % len(text))), text)

    read = request(PASSWORD, headers=signed())
    answers = play(read, post(b"first"), read, post(b"second"), read)
    assert [(answer.status, answer.body) for answer in answers if answer.status != 409] == [
        (200, b""),
        (200, b""),
        (200, b"first"),
        (200, b"first"),
    ]
    assert answers[3].status == 409


def test_two_posts_at_the_same_time(play, instances) -> None:
    """The second one is decided by the store, not by what memory says."""
    instances.set_password_once = lambda _id, _text: False
    (answer,) = play(request(PASSWORD, "POST", signed((b"Content-Length", b"1")), b"x"))
    assert answer.status == 409


def test_a_password_for_an_instance_that_goes(play, instances) -> None:
    steps = (
        request(headers=signed()),
        instances.instances.clear,
        request(PASSWORD, "POST", signed((b"Content-Length", b"1")), b"x"),
    )
    assert [answer.status for answer in play(*steps)] == [200, 404]


@pytest.mark.parametrize(
    ("headers", "status"),
    [(signed(), 411), (signed((b"Transfer-Encoding", b"chunked")), 200), (signed((b"content-length", b"2")), 200)],
)
def test_how_long_a_password_is_must_be_said(play, headers, status: int) -> None:
    (answer,) = play(request(PASSWORD, "POST", headers, b"pw"))
    assert answer.status == status


def test_a_change_shows_in_the_next_read(play, instances) -> None:
    def rename() -> None:
        instances.put(replace(instances.instances[ID], hostname="renamed"))

    answers = play(request(headers=signed()), request(headers=signed()), rename, request(headers=signed()))
    assert [answer.body for answer in answers] == [b"vm.novalocal", b"vm.novalocal", b"renamed.novalocal"]
    assert instances.asked == 2


def test_the_store_away(play, instances) -> None:
    def leave() -> None:
        instances.away = True

    def come_back() -> None:
        instances.away = False

    other = "11111111-2222-4333-8444-555555555502"
    known, still, unknown, posted, back = play(
        request(headers=signed()),
        leave,
        request(headers=signed()),
        request(headers=signed(instance_id=other)),
        request(PASSWORD, "POST", signed((b"Content-Length", b"1")), b"x"),
        come_back,
        request(headers=signed()),
    )
    assert (known.status, still.body, back.status) == (200, b"vm.novalocal", 200)
    for refused in (unknown, posted):
        assert (refused.status, header(refused, b"Retry-After")) == (503, b"1")


def test_an_internal_failure_tells_nothing(play, instances) -> None:
    def fail(_id: str) -> None:
        raise RuntimeError("internal detail")

    instances.instance = fail
    (answer,) = play(request(headers=signed()))
    assert answer.status == 500
    assert b"try your request again" in answer.body
    assert b"detail" not in answer.body


@dataclass(frozen=True)
class Port:
    instance_id: str
    project_id: str


def test_providers(play, instances) -> None:
    instances.providers["lb"] = {"10.0.0.5": (Port(ID, "p1"),), "10.0.0.6": (Port(ID, "p1"), Port("x", "p2"))}

    def ask(provider: bytes, *addresses: bytes, signature: str | None = None) -> Request:
        text = sign(SECRET, provider.decode()) if signature is None else signature
        return request(
            headers=(
                (b"X-Metadata-Provider", provider),
                (b"X-Metadata-Provider-Signature", text.encode()),
                *((b"X-Forwarded-For", address) for address in addresses),
            )
        )

    answers = play(
        ask(b"lb", b"10.0.0.5"),
        ask(b"lb", b"10.0.0.5, 192.0.2.1"),
        ask(b"lb"),
        ask(b"lb", b"10.0.0.5", signature="0"),
        ask(b"lb", b"10.0.0.6"),
        ask(b"lb", b"10.0.0.7"),
        ask(b"other", b"10.0.0.5"),
    )
    assert [answer.status for answer in answers] == [200, 200, 400, 403, 400, 400, 400]


def test_by_address(play, instances) -> None:
    instances.addresses |= {"10.0.0.5": (ID,), "10.0.0.6": (ID, "x"), "10.0.0.8": ("gone",)}
    with structlog.testing.capture_logs() as logs:
        answers = play(
            request(peer="10.0.0.5", headers=((b"X-Instance-ID", b"forged"), (b"X-Forwarded-For", b"10.0.0.6"))),
            request(peer="::ffff:10.0.0.5"),
            request(b"/latest/meta-data/local-ipv4", peer="10.0.0.5"),
            request(peer="10.0.0.6"),
            request(peer="10.0.0.7"),
            request(peer="10.0.0.8"),
            request(peer=""),
            signed=False,
        )
    assert [answer.status for answer in answers] == [200, 200, 200, 404, 404, 404, 404]
    assert answers[2].body == b"10.0.0.5"
    assert any("service_metadata_proxy is off" in line["event"] for line in logs)


VENDOR_DATA2 = b"/openstack/latest/vendor_data2.json"


def vendors_saying(said: Mapping[str, Any], **options: Any) -> Callable[[], VendordataTargets]:
    def post(url: str, _question: Mapping[str, Any]) -> VendordataResponse:
        answer = said[url]
        if isinstance(answer, Exception):
            raise answer
        return VendordataResponse(answer)

    targets = [Target("a", "http://a"), Target("b", "http://b"), Target("a", "http://never")]
    return lambda: VendordataTargets(targets, post, VendordataTimeouts(**options))


def test_dynamic_vendor_data(play) -> None:
    vendors = vendors_saying({"http://a": {"x": 1}, "http://b": None})
    (answer,) = play(request(VENDOR_DATA2, headers=signed()), vendors=vendors)
    assert json.loads(answer.body) == {"static": {}, "a": {"x": 1}, "b": {}}


@pytest.mark.parametrize(("fatal", "status"), [(False, 200), (True, 503)])
def test_a_vendor_that_fails(play, fatal: bool, status: int) -> None:
    said = {"http://a": PeerFailed("refused"), "http://b": {"y": 2}}
    vendors = vendors_saying(said, failure_is_fatal=fatal)
    with structlog.testing.capture_logs() as logs:
        (answer,) = play(request(VENDOR_DATA2, headers=signed()), vendors=vendors)
    assert answer.status == status
    if not fatal:
        assert json.loads(answer.body) == {"static": {}, "a": {}, "b": {"y": 2}}
    assert any(line.get("target") == "a" for line in logs)
