"""Whatever the network API accepts for a port, agents can decode."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openimds.client import decoders
from openimds.control_api.network.attributes import PORT

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from(["router", "classless-static-route", "ntp-server", "mtu", "150"]) | st.text(
    string.ascii_letters + string.digits + "-_:", min_size=1, max_size=12
)
OPTION = st.fixed_dictionaries(
    {"opt_name": NAMES},
    optional={"opt_value": st.none() | st.just("") | TEXT, "ip_version": st.sampled_from([4, 6, "4", "6"])},
)
PAIR = st.fixed_dictionaries(
    {"ip_address": st.sampled_from(["10.0.0.9", "10.0.0.0/8", "fd00::1", "0.0.0.0/0"])},
    optional={"mac_address": st.sampled_from([None, "FA-16-3E-00-00-01", "fa:16:3e:00:00:02"])},
)
LIKELY: dict[str, st.SearchStrategy[Any]] = {
    "extra_dhcp_opts": st.none() | st.lists(OPTION, max_size=3),
    "allowed_address_pairs": st.none() | st.lists(PAIR, max_size=2),
    "fixed_ips": st.none() | st.just([]) | st.just([{"ip_address": "10.0.0.9"}]),
    "mac_address": st.sampled_from([None, "FA-16-3E-00-00-01"]),
    "tags": st.lists(TEXT, max_size=3),
    "binding:profile": st.dictionaries(TEXT, JSON, max_size=3),
    "security_groups": st.none() | st.just([]),
    "port_security_enabled": st.booleans(),
}
ATTRIBUTES = st.sampled_from(sorted(LIKELY)) | st.sampled_from(sorted(set(PORT) - {"network_id"}))


@pytest.fixture
def network_id(operator: Any) -> str:
    network: str = operator.make("network", name="n")["id"]
    operator.make("subnet", network_id=network, cidr="10.0.0.0/8", ip_version=4)
    return network


@st.composite
def some_attributes(draw: st.DrawFn) -> dict[str, Any]:
    """Values that mostly have the right type, so that most requests are accepted."""
    names = draw(st.lists(ATTRIBUTES, min_size=1, max_size=3, unique=True))
    unlikely = draw(st.sampled_from(["", "", "", *names]))
    return {name: draw(JSON if name == unlikely else LIKELY.get(name, TEXT | st.booleans())) for name in names}


@given(created=some_attributes(), changed=some_attributes())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_accepted_port_is_decoded(
    operator: Any, agent: Any, network_id: str, created: dict[str, Any], changed: dict[str, Any]
) -> None:
    """A DHCP option with the value null was accepted, and no agent could decode the port."""
    body = {"port": {"network_id": network_id, **created}}
    answer = operator.call("POST", "/network/v2.0/ports", body)
    assert answer.status_code in {201, 400, 404, 409, 501}, answer.text
    if answer.status_code != 201:
        return
    port_id = answer.json()["port"]["id"]
    check_decoded(agent, port_id)
    answer = operator.call("PUT", f"/network/v2.0/ports/{port_id}", {"port": changed})
    assert answer.status_code in {200, 400, 404, 409, 501}, answer.text
    check_decoded(agent, port_id)
    operator.delete(f"/ports/{port_id}")


def check_decoded(agent: Any, port_id: str) -> None:
    answer = agent.call("GET", "/openimds/v1/snapshot?kinds=port")
    assert answer.status_code == 200, answer.text
    shown = {body["id"]: body for body in answer.json()["objects"]["port"]}
    port = decoders.resource("port", shown[port_id])
    assert port.id == port_id


@pytest.mark.parametrize("value", [None, ""])
def test_dhcp_option_without_a_value_is_not_set(member: Any, value: str | None) -> None:
    """Neutron does not store an option with the value null, and accepts an empty value for two options only."""
    network = member.make("network", name="n")["id"]
    option = {"opt_name": "ntp-server", "opt_value": value, "ip_version": 4}
    body = {"port": {"network_id": network, "extra_dhcp_opts": [option]}}
    if value is None:
        port = member.post("/ports", body)["port"]
        assert port["extra_dhcp_opts"] == []
    else:
        answer = member.post("/ports", body, 400)
        assert "extra_dhcp_opts" in answer["NeutronError"]["message"]
        port = member.make("port", network_id=network)
        member.put(f"/ports/{port['id']}", {"port": {"extra_dhcp_opts": [option]}}, 400)


def test_dhcp_option_that_may_be_blank_is_set(member: Any) -> None:
    network = member.make("network", name="n")["id"]
    option = {"opt_name": "router", "opt_value": "", "ip_version": 4}
    assert member.make("port", network_id=network, extra_dhcp_opts=[option])["extra_dhcp_opts"] == [option]
