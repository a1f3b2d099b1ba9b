"""Session tokens, instance tags and ETags in requests from a guest's namespace, in both modes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from tests.system.api_client import ApiClient
from tests.system.cloud import Cloud
from tests.waiting import HANG_SECONDS, until

METADATA = "http://169.254.169.254"
TOKEN = "/latest/api/token"
HOSTNAME = "/latest/meta-data/hostname"
DOCUMENT = "/openstack/latest/meta_data.json"

pytestmark = pytest.mark.usefixtures("metadata_proxy")


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: str


@dataclass(frozen=True)
class Guest:
    cloud: Cloud
    api: ApiClient
    id: str

    def ask(self, path: str, *headers: str, method: str = "GET") -> Answer:
        """Sends a request by curl from the guest's namespace."""
        options = ["-I"] if method == "HEAD" else ["-X", method]
        lines = [option for header in headers for option in ("-H", header)]
        output = self.cloud.inside(
            f"qvm-{self.id}", "curl", "-si", "-m", f"{HANG_SECONDS:g}", *options, *lines, METADATA + path
        )
        head, _, body = output.partition("\n\n")
        first, *rest = head.splitlines()
        return Answer(
            int(first.split()[1]), {k.lower(): v for k, _, v in (line.partition(": ") for line in rest)}, body
        )

    def token(self, ttl: int = 60) -> str:
        answer = self.ask(TOKEN, f"X-aws-ec2-metadata-token-ttl-seconds: {ttl}", method="PUT")
        assert (answer.status, answer.headers["x-aws-ec2-metadata-token-ttl-seconds"]) == (200, str(ttl))
        return answer.body

    def with_token(self, path: str, token: str, method: str = "GET") -> Answer:
        return self.ask(path, f"X-aws-ec2-metadata-token: {token}", method=method)

    def set(self, *properties: str) -> None:
        """Sets properties of the form `name=value`."""
        self.api.set_properties(self.id, **dict(one.split("=", 1) for one in properties))

    def unset(self, *properties: str) -> None:
        for name in properties:
            self.api.unset_property(self.id, name)

    def wait_for_status(self, path: str, status: int) -> None:
        until(lambda: self.ask(path).status == status, f"{path} has status {status}")


@pytest.fixture(scope="module")
def guests(cloud: Cloud) -> tuple[Guest, Guest]:
    api = ApiClient(cloud)
    network = api.network("n", "10.9.0.0/24")
    api.router("r", network)
    a, b = (Guest(cloud, api, api.server(name, network)) for name in "ab")
    cloud.wait_booted(a.id, "a")
    cloud.wait_booted(b.id, "b")
    return a, b


@pytest.fixture
def strict(guests: tuple[Guest, Guest]) -> Iterator[Guest]:
    """The first guest, with tokens required."""
    guest = guests[0]
    guest.set("imds:HttpTokens=required")
    guest.wait_for_status(HOSTNAME, 401)
    yield guest
    guest.unset("imds:HttpTokens")
    guest.wait_for_status(HOSTNAME, 200)


def test_tokens_are_optional_by_default(guests: tuple[Guest, Guest]) -> None:
    a, b = guests
    assert a.ask(HOSTNAME).body == "a.novalocal"
    token = a.token()
    assert a.with_token(HOSTNAME, token).body == "a.novalocal"
    assert a.with_token(HOSTNAME, token, "HEAD").status == 200
    assert b.with_token(HOSTNAME, token).status == 401, "the token is another instance's"
    assert a.with_token(HOSTNAME, "nonsense").status == 401
    assert a.with_token(DOCUMENT, "nonsense").status == 401


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        (TOKEN, (), 400),
        (TOKEN, ("X-aws-ec2-metadata-token-ttl-seconds: 0",), 400),
        (TOKEN, ("X-aws-ec2-metadata-token-ttl-seconds: 21601",), 400),
        (TOKEN, ("X-aws-ec2-metadata-token-ttl-seconds: soon",), 400),
        ("/2021-03-23/api/token", ("X-aws-ec2-metadata-token-ttl-seconds: 60",), 403),
        (TOKEN, ("X-aws-ec2-metadata-token-ttl-seconds: 60", "x-forwarded-FOR: 203.0.113.9"), 403),
        (TOKEN, ("X-aws-ec2-metadata-token-ttl-seconds: 60", "Forwarded: for=203.0.113.9"), 403),
        (TOKEN, ("X-aws-ec2-metadata-token-ttl-seconds: 21600",), 200),
        # the proxy removes this header of a guest
        (TOKEN, ("X-aws-ec2-metadata-token-ttl-seconds: 60", "X-Openimds-Guest-Forwarded: 1"), 200),
    ],
)
def test_token_request_is_validated(
    guests: tuple[Guest, Guest], path: str, headers: tuple[str, ...], status: int
) -> None:
    answer = guests[0].ask(path, *headers, method="PUT")
    assert answer.status == status
    assert "x-openimds-hop-limit" not in answer.headers


def test_get_of_the_token_path_is_405(guests: tuple[Guest, Guest]) -> None:
    answer = guests[0].ask(TOKEN)
    assert (answer.status, answer.headers["allow"]) == (405, "PUT")


def test_required_tokens_are_enforced_on_the_ec2_tree(strict: Guest) -> None:
    token = strict.token()
    assert strict.with_token(HOSTNAME, token).body == "a.novalocal"
    assert strict.with_token(HOSTNAME, token, "HEAD").status == 200
    assert strict.ask("/").status == 401
    assert strict.with_token("/latest/meta-data/nope", token).status == 404
    assert strict.ask(DOCUMENT).status == 200, "/openstack has an option of its own"


def test_token_expires(strict: Guest) -> None:
    token = strict.token(ttl=1)
    until(lambda: strict.with_token(HOSTNAME, token).status == 401, "the token has expired")


def test_token_outlives_the_process_that_issued_it(cloud: Cloud, metadata_proxy: str, strict: Guest) -> None:
    token = strict.token(ttl=600)
    cloud.openimds("restart", {"haproxy": "metadata-api", "direct": "metadata-agent"}[metadata_proxy])
    until(lambda: strict.with_token(HOSTNAME, token).status == 200, "the new process accepts the token")


def test_openstack_tokens_property_requires_tokens_for_the_openstack_tree(guests: tuple[Guest, Guest]) -> None:
    guest = guests[0]
    guest.set("imds:OpenStackTokens=required")
    guest.wait_for_status(DOCUMENT, 401)
    assert json.loads(guest.with_token(DOCUMENT, guest.token()).body)["uuid"] == guest.id
    assert guest.ask(HOSTNAME).status == 200
    guest.unset("imds:OpenStackTokens")
    guest.wait_for_status(DOCUMENT, 200)


def test_tokens_off_behaves_as_nova(guests: tuple[Guest, Guest]) -> None:
    guest = guests[0]
    guest.set("imds:HttpTokens=off")
    guest.wait_for_status(TOKEN, 404)
    assert guest.ask(TOKEN, "X-aws-ec2-metadata-token-ttl-seconds: 60", method="PUT").status == 404
    assert guest.with_token(HOSTNAME, "nonsense").status == 200
    guest.unset("imds:HttpTokens")
    guest.wait_for_status(TOKEN, 405)


def test_disabled_endpoint_is_403(guests: tuple[Guest, Guest]) -> None:
    a, b = guests
    a.set("imds:HttpEndpoint=disabled")
    a.wait_for_status(HOSTNAME, 403)
    for path in ("/", DOCUMENT, TOKEN, "/nope"):
        assert a.ask(path).status == 403
    assert b.ask(HOSTNAME).status == 200
    a.unset("imds:HttpEndpoint")
    a.wait_for_status(HOSTNAME, 200)


def test_enabled_tags_are_served(guests: tuple[Guest, Guest]) -> None:
    guest = guests[0]
    guest.set("team=red", "imds:InstanceMetadataTags=enabled")
    guest.wait_for_status("/latest/meta-data/tags/instance/team", 200)
    assert guest.ask("/latest/meta-data/tags/instance/").body == "team"
    assert guest.ask("/latest/meta-data/tags/instance/team").body == "red"
    guest.unset("imds:InstanceMetadataTags")
    guest.wait_for_status("/latest/meta-data/tags/instance/team", 404)
    assert "tags" not in guest.ask("/latest/meta-data/").body


def test_misspelt_property_value_is_refused(cloud: Cloud, guests: tuple[Guest, Guest]) -> None:
    message = cloud.refused("openstack server set --property imds:HttpTokens=requierd a")
    assert "imds:HttpTokens is optional, required or off" in message


@pytest.mark.parametrize("path", [HOSTNAME, DOCUMENT, "/openstack/latest/network_data.json", "/latest/meta-data/", "/"])
def test_matching_etag_is_304(guests: tuple[Guest, Guest], path: str) -> None:
    guest = guests[0]
    etag = guest.ask(path).headers["etag"]
    again = guest.ask(path, f"If-None-Match: {etag}")
    assert (again.status, again.body, again.headers["etag"]) == (304, "", etag)
    assert guest.ask(path, 'If-None-Match: "other"').status == 200
    assert guest.ask(path, method="HEAD").headers["etag"] == etag


def test_etag_changes_with_the_document(guests: tuple[Guest, Guest]) -> None:
    guest = guests[0]
    etag = guest.ask(DOCUMENT).headers["etag"]
    guest.set("colour=blue")
    until(lambda: guest.ask(DOCUMENT, f"If-None-Match: {etag}").status == 200, "the document has changed")
    guest.unset("colour")
