"""The metadata agent in a real OpenStack: Keystone, neutron-server and nova-api-metadata, as operators run them."""

from __future__ import annotations

import pytest
from tests.system.openstack.conftest import AGENT_PASSWORD, Agent, RealCloud, hanging
from tests.waiting import until

UNUSED_ADDRESS = "10.20.15.250"


def test_equal_addresses_of_two_projects_are_told_apart(agent: Agent, real_cloud: RealCloud) -> None:
    agent.start()
    same_address = [real_cloud.guests[0], real_cloud.guests[-1], *real_cloud.isolated]
    assert {guest.address for guest in same_address} == {"10.20.1.1"}
    assert [agent.hostname(guest) for guest in same_address] == [guest.hostname for guest in same_address]
    assert agent.hostname(real_cloud.guests[0], UNUSED_ADDRESS) == 404
    assert [event["level"] for event in agent.events("") if event["level"] in ("error", "critical")] == []


def test_checks_of_the_start_are_logged(agent: Agent) -> None:
    """The agent's user has the role `service` only."""
    agent.start()
    until(lambda: agent.events("ports listed by Neutron"), lambda: agent.log)
    (login,) = agent.events("login accepted by the identity service")
    assert login["roles"] == "service"
    until(lambda: agent.events("signature accepted by the metadata API"), lambda: agent.log)


@pytest.mark.parametrize("delay_seconds", [0.0, 0.2], ids=["quiet Neutron", "slow Neutron"])
def test_burst_of_new_guests_is_served_with_few_calls(
    agent: Agent, real_cloud: RealCloud, delay_seconds: float
) -> None:
    guests = [guest for guest in real_cloud.guests if guest.hostname.startswith("demo")]
    agent.start()
    until(lambda: agent.events("ports listed by Neutron"), lambda: agent.log)
    real_cloud.neutron.delay_seconds = delay_seconds
    real_cloud.neutron.calls.clear()
    assert agent.burst(guests) == [200] * len(guests)
    assert len(real_cloud.neutron.calls) <= 5, real_cloud.neutron.calls


def test_known_instance_is_served_while_neutron_does_not_respond(agent: Agent, real_cloud: RealCloud) -> None:
    guest = real_cloud.guests[1]
    agent.configure(AGENT_PASSWORD, "[DEFAULT]", "cache_url =")
    agent.start()
    assert agent.hostname(guest) == guest.hostname
    with hanging(real_cloud.neutron):
        assert agent.hostname(guest) == guest.hostname
        assert agent.hostname(guest, UNUSED_ADDRESS) == 503
    assert agent.events("port lookups delayed")


def test_wrong_password_does_not_lock_the_account(agent: Agent, real_cloud: RealCloud) -> None:
    """Keystone locks an account after three failed logins here."""
    guest = real_cloud.guests[2]
    agent.configure("wrong")
    agent.start()
    for _ in range(10):
        head, _body = agent.get(guest)
        assert head.startswith("HTTP/1.1 503")
        assert "retry-after" in head.lower()
    assert len(agent.events("login refused")) == 1
    agent.configure(AGENT_PASSWORD)
    until(lambda: agent.hostname(guest) == guest.hostname, lambda: agent.log)


def test_notified_move_of_an_address_takes_effect_without_the_ttl(agent: Agent, real_cloud: RealCloud) -> None:
    """The result is cached for minutes, because Neutron notifies changes."""
    first, second = real_cloud.guests[3], real_cloud.guests[4]
    url = real_cloud.services.transport_url
    agent.configure(AGENT_PASSWORD, "[oslo_messaging_notifications]", f"transport_url = {url}")
    agent.start()
    until(lambda: agent.events("notifications live"), lambda: agent.log)
    assert agent.hostname(first) == first.hostname
    real_cloud.move(first, "10.20.9.3")
    real_cloud.move(second, first.address)
    until(lambda: agent.hostname(first) == second.hostname, lambda: agent.log)
    assert agent.hostname(first, "10.20.9.3") == first.hostname
