from __future__ import annotations

import json
from pathlib import Path

import pytest

from openimds.netconfig.haproxy import network_proxy, router_proxy
from openimds.netconfig.listener_file import (
    DesiredListeners,
    ListenAddress,
    ListenersFileError,
    Scope,
    listeners_file,
    parse_listeners,
    render_listeners,
    with_indexes,
)

NETWORK = DesiredListeners(
    scope=Scope.NETWORK,
    scope_id="n1",
    namespace="qdhcp-n1",
    namespace_inode=4026532257,
    addresses=(ListenAddress("169.254.169.254", 80), ListenAddress("fe80::a9fe:a9fe", 80, "tap1", 2)),
)


def test_listeners_are_rendered_and_parsed() -> None:
    assert listeners_file("n1", Path("/var/lib/openimds")) == Path("/var/lib/openimds/ns-metadata-proxy/n1.json")
    assert json.loads(render_listeners(NETWORK)) == {
        "kind": "network",
        "id": "n1",
        "namespace": "qdhcp-n1",
        "namespace_inode": 4026532257,
        "addresses": [["169.254.169.254", 80], ["fe80::a9fe:a9fe%tap1", 80, 2]],
    }
    assert parse_listeners(render_listeners(NETWORK)) == NETWORK
    assert NETWORK.tag == "network:n1"


def test_proxies_listen_on_their_addresses() -> None:
    in_dhcp = network_proxy(name="n1", namespace="qdhcp-n1", device="tap1", has_ipv6=True, router_id="r9")
    assert with_indexes(in_dhcp.addresses, {"tap1": 2}) == NETWORK.addresses
    assert (in_dhcp.scope, in_dhcp.scope_id) == (Scope.ROUTER, "r9")
    in_router = router_proxy(name="r1", namespace="qrouter-r1", port=9697, access_mark=1)
    assert [str(address) for address in in_router.addresses] == ["0.0.0.0:9697", "[::]:9697"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "subnet"}, '"kind" is neither'),
        ({"kind": ["network"]}, '"kind" is neither'),
        ({"id": ""}, '"id" is empty or not a string'),
        ({"namespace": "../1"}, '"namespace" is not a namespace name'),
        ({"namespace": ".."}, '"namespace" is not a namespace name'),
        ({"namespace_inode": None}, '"namespace_inode": None is not a number'),
        ({"namespace_inode": True}, '"namespace_inode": True is not a number'),
        ({"addresses": []}, '"addresses" is not a list'),
        ({"addresses": ["169.254.169.254"]}, 'other than ["address", port]'),
        ({"addresses": [["metadata", 80]]}, "'metadata' is not an IP address"),
        ({"addresses": [["169.254.169.254", 70000]]}, "70000 is not a number between 1 and 65535"),
        ({"addresses": [["fe80::a9fe:a9fe", 80]]}, "only a link-local IPv6 address has"),
        ({"addresses": [["169.254.169.254%tap1", 80]]}, "is not an IP address|only a link-local IPv6 address has"),
    ],
)
def test_malformed_file_is_rejected(change: dict[str, object], message: str) -> None:
    content = json.loads(render_listeners(NETWORK)) | change
    with pytest.raises(ListenersFileError, match=message.replace("[", r"\[").replace("]", r"\]")):
        parse_listeners(json.dumps(content))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"network"'])
def test_text_that_is_not_an_object_is_rejected(text: str) -> None:
    with pytest.raises(ListenersFileError, match=r"is not JSON|is not a JSON object"):
        parse_listeners(text)
