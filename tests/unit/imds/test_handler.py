"""The metadata handler: requests and responses, with a fake store."""

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
def send(instances, threads) -> Callable[..., list[Response]]:
    """Sends requests to one handler in sequence. A step that is a function is called."""

    def run(*steps: Request | Callable[[], None], **options: Any) -> list[Response]:
        return asyncio.run(_play(steps, options))

    async def _play(steps: tuple[Request | Callable[[], None], ...], options: dict[str, Any]) -> list[Response]:
        records = InstanceCache(threads)
        instances.on_change = records.forget
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
        responses = []
        for step in steps:
            if isinstance(step, Request):
                responses.append(await service.handle(step))
            else:
                step()
        return responses

    return run


def header(response: Response, name: bytes) -> bytes | None:
    return dict(response.headers).get(name)


def test_cancelled_request_is_logged(instances, threads) -> None:
    """The request may have changed the store, so its log line must not be lost."""

    class WaitingAuthenticator:
        def admit(self, _request: object) -> None: ...

        def identifies(self, _request: object) -> bool:
            return True

        def authenticate_from_cache(self, _request: object) -> None:
            """No instance is cached."""

        async def authenticate(self, _request: object) -> AuthenticatedInstance:
            await asyncio.Event().wait()
            raise AssertionError

    async def main() -> None:
        service = MetadataHandler(
            authenticator=WaitingAuthenticator(),
            records=InstanceCache(threads),
            passwords=instances,
            settings=DocumentSettings(),
            executor=threads,
        )
        handling = asyncio.create_task(service.handle(request(PASSWORD, "POST")))
        await asyncio.sleep(0)
        handling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await handling

    with structlog.testing.capture_logs() as lines:
        asyncio.run(main())
    assert [(line["event"], line["method"], line["path"]) for line in lines] == [
        ("request given up by its guest", "POST", PASSWORD.decode())
    ]


def test_replay_does_not_hold_a_deleted_record(send, instances) -> None:
    """A guest can send a new request for every version of its instance. Memory must not grow with each of them."""
    references: list[weakref.ref[Any]] = []

    def change() -> None:
        instances.put(replace(instances.instances[ID], user_data=b"x"))

    (response,) = send(request(headers=signed()), change)
    replay = response.replay
    assert replay is not None
    references += [replay.__self__.record, replay.__self__.rendered]
    gc.collect()
    assert [reference() for reference in references] == [None, None]
    assert replay(b"") is None


def test_signed_request_is_served(send) -> None:
    (response,) = send(request(headers=signed()))
    assert (response.status, response.body) == (200, b"vm.novalocal")
    assert header(response, b"Content-Type") == b"text/plain; charset=UTF-8"


@pytest.mark.parametrize(
    ("headers", "status", "sentence"),
    [
        ((), 400, b"X-Instance-ID header is missing"),
        (signed()[:1], 400, b"X-Instance-ID-Signature header is missing"),
        ((signed()[0], signed()[2]), 400, b"X-Tenant-ID header is missing"),
        (signed(signed()[0]), 400, b"Multiple X-Instance-ID headers"),
        (signed(secret="other"), 403, b"Invalid proxy request signature."),
        (signed(project=b"p2"), 404, b"could not be found"),
        (signed(instance_id="unknown"), 404, b"could not be found"),
    ],
)
@pytest.mark.parametrize("target", [HOSTNAME, b"/nope"])
def test_invalid_identity_is_rejected(send, target: bytes, headers, status: int, sentence: bytes) -> None:
    (response,) = send(request(target, headers=headers))
    assert response.status == status
    assert sentence in response.body


def test_unknown_instance_and_another_project_get_the_same_response(send) -> None:
    unknown, other = send(
        request(b"/nope", headers=signed(instance_id="x")), request(b"/nope", headers=signed(project=b"p2"))
    )
    assert unknown.body == other.body


def test_root_is_served_without_an_identity(send) -> None:
    (response,) = send(request(b"/"))
    assert response.status == 200


def test_different_secret_is_logged_without_its_value(send) -> None:
    with structlog.testing.capture_logs() as logs:
        send(request(headers=signed(secret="SECRETE_KEY")), secrets=["SECRET_KEY"])
    text = json.dumps(logs)
    assert "metadata_proxy_shared_secret" in text
    assert sign("SECRETE_KEY", ID) not in text
    assert '"SECRET' not in text


def test_both_secrets_are_accepted_during_a_rotation(send) -> None:
    responses = send(
        request(headers=signed(secret="new")), request(headers=signed(secret="old")), secrets=["new", "old"]
    )
    assert [response.status for response in responses] == [200, 200]


def test_malformed_target_is_rejected(send) -> None:
    (response,) = send(request(b"latest", headers=signed()))
    assert response.status == 400


def test_error_is_json_if_the_client_accepts_json(send) -> None:
    (response,) = send(request(b"/nope", headers=signed((b"Accept", b"application/json"))))
    assert json.loads(response.body)["code"] == "404 Not Found"


def test_valid_request_id_is_returned_and_another_is_replaced(send) -> None:
    given = b"req-0a1b2c3d-0000-4000-8000-0123456789ab"
    accepted, new, invalid = send(
        request(headers=signed((b"X-Openstack-Request-Id", given))),
        request(headers=signed()),
        request(headers=signed((b"X-Openstack-Request-Id", b"req-x\nforged"))),
    )
    assert header(accepted, b"X-Openstack-Request-Id") == given
    ids = {header(response, b"X-Openstack-Request-Id") for response in (new, invalid)}
    assert len(ids) == 2
    assert all(each is not None and each.startswith(b"req-") and len(each) == len(given) for each in ids)


def test_log_has_no_bodies_and_no_query_strings(send) -> None:
    with structlog.testing.capture_logs() as logs:
        send(request(PASSWORD + b"?token=hush", "POST", signed((b"Content-Length", b"6")), b"hidden"))
    (line,) = [line for line in logs if line["event"] == "request answered"]
    assert (line["instance_id"], line["path"], line["status"]) == (ID, PASSWORD.decode(), 200)
    assert "hidden" not in json.dumps(logs)
    assert "hush" not in json.dumps(logs)


def test_password_is_stored_once_and_returned_immediately(send) -> None:
    def post(text: bytes) -> Request:
        return request(PASSWORD, "POST", signed((b"Content-Length", b"%d" % len(text))), text)

    read = request(PASSWORD, headers=signed())
    responses = send(read, post(b"first"), read, post(b"second"), read)
    assert [(response.status, response.body) for response in responses if response.status != 409] == [
        (200, b""),
        (200, b""),
        (200, b"first"),
        (200, b"first"),
    ]
    assert responses[3].status == 409


def test_second_of_two_concurrent_passwords_is_rejected(send, instances) -> None:
    """The store decides about the second password, not the cache."""
    instances.set_password_once = lambda _id, _text: False
    (response,) = send(request(PASSWORD, "POST", signed((b"Content-Length", b"1")), b"x"))
    assert response.status == 409


def test_password_for_a_deleted_instance_is_not_found(send, instances) -> None:
    steps = (
        request(headers=signed()),
        instances.instances.clear,
        request(PASSWORD, "POST", signed((b"Content-Length", b"1")), b"x"),
    )
    assert [response.status for response in send(*steps)] == [200, 404]


@pytest.mark.parametrize(
    ("headers", "status"),
    [(signed(), 411), (signed((b"Transfer-Encoding", b"chunked")), 200), (signed((b"content-length", b"2")), 200)],
)
def test_password_without_a_length_is_rejected(send, headers, status: int) -> None:
    (response,) = send(request(PASSWORD, "POST", headers, b"pw"))
    assert response.status == status


def test_change_is_served_by_the_next_request(send, instances) -> None:
    def rename() -> None:
        instances.put(replace(instances.instances[ID], hostname="renamed"))

    responses = send(request(headers=signed()), request(headers=signed()), rename, request(headers=signed()))
    assert [response.body for response in responses] == [b"vm.novalocal", b"vm.novalocal", b"renamed.novalocal"]
    assert instances.query_count == 2


def test_unavailable_store_is_503_unless_the_record_is_cached(send, instances) -> None:
    def stop_store() -> None:
        instances.unavailable = True

    def start_store() -> None:
        instances.unavailable = False

    other = "11111111-2222-4333-8444-555555555502"
    before, cached, unknown, posted, after = send(
        request(headers=signed()),
        stop_store,
        request(headers=signed()),
        request(headers=signed(instance_id=other)),
        request(PASSWORD, "POST", signed((b"Content-Length", b"1")), b"x"),
        start_store,
        request(headers=signed()),
    )
    assert (before.status, cached.body, after.status) == (200, b"vm.novalocal", 200)
    for unavailable in (unknown, posted):
        assert (unavailable.status, header(unavailable, b"Retry-After")) == (503, b"1")


def test_internal_error_is_a_500_response_without_details(send, instances) -> None:
    def fail(_id: str) -> None:
        raise RuntimeError("internal detail")

    instances.instance = fail
    (response,) = send(request(headers=signed()))
    assert response.status == 500
    assert b"try your request again" in response.body
    assert b"detail" not in response.body


@dataclass(frozen=True)
class Port:
    instance_id: str
    project_id: str


def test_provider_identifies_an_instance_by_address(send, instances) -> None:
    instances.providers["lb"] = {"10.0.0.5": (Port(ID, "p1"),), "10.0.0.6": (Port(ID, "p1"), Port("x", "p2"))}

    def by_provider(provider: bytes, *addresses: bytes, signature: str | None = None) -> Request:
        text = sign(SECRET, provider.decode()) if signature is None else signature
        return request(
            headers=(
                (b"X-Metadata-Provider", provider),
                (b"X-Metadata-Provider-Signature", text.encode()),
                *((b"X-Forwarded-For", address) for address in addresses),
            )
        )

    responses = send(
        by_provider(b"lb", b"10.0.0.5"),
        by_provider(b"lb", b"10.0.0.5, 192.0.2.1"),
        by_provider(b"lb"),
        by_provider(b"lb", b"10.0.0.5", signature="0"),
        by_provider(b"lb", b"10.0.0.6"),
        by_provider(b"lb", b"10.0.0.7"),
        by_provider(b"other", b"10.0.0.5"),
    )
    assert [response.status for response in responses] == [200, 200, 400, 403, 400, 400, 400]


def test_address_identifies_one_instance(send, instances) -> None:
    instances.addresses |= {"10.0.0.5": (ID,), "10.0.0.6": (ID, "x"), "10.0.0.8": ("gone",)}
    with structlog.testing.capture_logs() as logs:
        responses = send(
            request(peer="10.0.0.5", headers=((b"X-Instance-ID", b"forged"), (b"X-Forwarded-For", b"10.0.0.6"))),
            request(peer="::ffff:10.0.0.5"),
            request(b"/latest/meta-data/local-ipv4", peer="10.0.0.5"),
            request(peer="10.0.0.6"),
            request(peer="10.0.0.7"),
            request(peer="10.0.0.8"),
            request(peer=""),
            signed=False,
        )
    assert [response.status for response in responses] == [200, 200, 200, 404, 404, 404, 404]
    assert responses[2].body == b"10.0.0.5"
    assert any("service_metadata_proxy is off" in line["event"] for line in logs)


VENDOR_DATA2 = b"/openstack/latest/vendor_data2.json"


def vendors_returning(responses: Mapping[str, Any], **options: Any) -> Callable[[], VendordataTargets]:
    def post(url: str, _document: Mapping[str, Any]) -> VendordataResponse:
        content = responses[url]
        if isinstance(content, Exception):
            raise content
        return VendordataResponse(content)

    targets = [Target("a", "http://a"), Target("b", "http://b"), Target("a", "http://never")]
    return lambda: VendordataTargets(targets, post, VendordataTimeouts(**options))


def test_dynamic_vendor_data_has_the_response_of_every_target(send) -> None:
    vendors = vendors_returning({"http://a": {"x": 1}, "http://b": None})
    (response,) = send(request(VENDOR_DATA2, headers=signed()), vendors=vendors)
    assert json.loads(response.body) == {"static": {}, "a": {"x": 1}, "b": {}}


@pytest.mark.parametrize(("fatal", "status"), [(False, 200), (True, 503)])
def test_failing_target_is_empty_or_fatal_by_option(send, fatal: bool, status: int) -> None:
    contents = {"http://a": PeerFailed("refused"), "http://b": {"y": 2}}
    vendors = vendors_returning(contents, failure_is_fatal=fatal)
    with structlog.testing.capture_logs() as logs:
        (response,) = send(request(VENDOR_DATA2, headers=signed()), vendors=vendors)
    assert response.status == status
    if not fatal:
        assert json.loads(response.body) == {"static": {}, "a": {}, "b": {"y": 2}}
    assert any(line.get("target") == "a" for line in logs)
