"""Notifications of Neutron and Nova, sent with oslo.messaging over its in-memory transport."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from oslo_config import cfg
from tests.waiting import until

from openimds.client import notifications
from openimds.client.notifications import NotificationListener, NotificationsUnavailableError, changed_by
from openimds.resources.network import NotifiedChange

PORT = {"id": "p1", "device_id": "vm1", "device_owner": "compute:nova", "network_id": "n1", "mac_address": "02:00::1"}
INTERFACE = {"id": "p2", "device_id": "r1", "device_owner": "network:router_interface", "network_id": "n1"}


CHANGED_PORT = NotifiedChange(port_ids=frozenset({"p1"}), port_network_ids=frozenset({"n1"}))


@pytest.mark.parametrize(
    ("event_type", "payload", "expected"),
    [
        (
            "port.create.end",
            {"port": PORT},
            NotifiedChange(port_ids=frozenset({"p1"}), port_network_ids=frozenset({"n1"})),
        ),
        ("port.create.end", {"ports": [PORT]}, CHANGED_PORT),
        ("port.delete.end", {"port_id": "p1"}, NotifiedChange(port_ids=frozenset({"p1"}))),
        ("port.delete.end", {"port_id": "p1", "port": PORT}, CHANGED_PORT),
        (
            "port.update.end",
            {"port": INTERFACE},
            NotifiedChange(
                port_ids=frozenset({"p2"}), port_network_ids=frozenset({"n1"}), router_ids=frozenset({"r1"})
            ),
        ),
        (
            "router.interface.delete",
            {"router_interface": {"id": "r1", "port_id": "p2", "network_id": "n1", "subnet_id": "s1"}},
            NotifiedChange(port_ids=frozenset({"p2"}), router_ids=frozenset({"r1"}), network_ids=frozenset({"n1"})),
        ),
        ("router.delete.end", {"router_id": "r1"}, NotifiedChange(router_ids=frozenset({"r1"}))),
        (
            "subnet.update.end",
            {"subnet": {"id": "s1", "network_id": "n1"}},
            NotifiedChange(network_ids=frozenset({"n1"})),
        ),
        ("network.delete.end", {"network_id": "n1"}, NotifiedChange(network_ids=frozenset({"n1"}))),
        ("instance.delete.end", {"nova_object.data": {"uuid": "vm1"}}, NotifiedChange(instance_ids=frozenset({"vm1"}))),
        ("compute.instance.delete.end", {"instance_id": "vm1"}, NotifiedChange(instance_ids=frozenset({"vm1"}))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_notification_names_the_changed_resources(event_type: str, payload: Any, expected: NotifiedChange) -> None:
    assert changed_by(event_type, payload) == expected


@pytest.mark.parametrize(
    ("event_type", "payload"),
    [
        ("port.update.start", {"port": PORT}),
        ("floatingip.update.end", {"floatingip": {"id": "f1"}}),
        ("instance.update", {"nova_object.data": {"uuid": "vm1"}}),
        ("port.update.end", "text"),
        ("port.update.end", None),
        ("router.interface.create", {"router_interface": "text"}),
        ("instance.delete.end", {"nova_object.data": "text"}),
        ("", {}),
    ],
)
def test_notification_without_effect_on_identities_names_nothing(event_type: str, payload: Any) -> None:
    assert changed_by(event_type, payload) is None


def test_malformed_resources_of_a_notification_are_ignored() -> None:
    assert changed_by("port.update.end", {"port": {"id": 7}, "ports": ["text", PORT]}) == NotifiedChange(
        port_ids=frozenset({"p1"})
    )


@dataclass
class Received:
    changes: list[NotifiedChange] = field(default_factory=list)
    states: list[bool] = field(default_factory=list)


def messaging_conf() -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[])
    return conf


Sender = Callable[[str, str, Any], None]


@pytest.fixture
def send() -> Sender:
    """Sends a notification to the exchange of a service, as that service does."""
    import oslo_messaging  # noqa: PLC0415 - its import takes a second

    def notifier(exchange: str) -> Any:
        conf = messaging_conf()
        oslo_messaging.get_notification_transport(conf, url="fake://")
        conf.set_override("control_exchange", exchange)
        transport = oslo_messaging.get_notification_transport(conf, url="fake://")
        return oslo_messaging.Notifier(
            transport, publisher_id=f"{exchange}.host", driver="messagingv2", topics=["notifications"]
        )

    return lambda exchange, event_type, payload: notifier(exchange).info({}, event_type, payload)


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Received, NotificationListener]]:
    monkeypatch.setattr(notifications, "ECHO_SECONDS", 0.05)
    got = Received()
    listener = NotificationListener(
        messaging_conf(),
        transport_url="fake://",
        topics=["notifications"],
        name=uuid.uuid4().hex,
        on_changed=got.changes.append,
        on_live=got.states.append,
    )
    listener.start()
    yield got, listener
    listener.stop()


def test_notifications_of_both_services_are_received_once_the_listener_is_live(
    received: tuple[Received, NotificationListener], send: Sender
) -> None:
    got, _listener = received
    until(lambda: got.states == [True], "the listener is live")
    send("neutron", "port.delete.end", {"port_id": "p1"})
    send("nova", "instance.delete.end", {"nova_object.data": {"uuid": "vm1"}})
    until(lambda: len(got.changes) == 2, "both notifications arrive")
    assert {*got.changes} == {
        NotifiedChange(port_ids=frozenset({"p1"})),
        NotifiedChange(instance_ids=frozenset({"vm1"})),
    }


def test_listener_without_echoes_is_not_live(
    received: tuple[Received, NotificationListener], monkeypatch: pytest.MonkeyPatch
) -> None:
    got, listener = received
    until(lambda: got.states == [True], "the listener is live")
    monkeypatch.setattr(listener._notifier, "info", lambda *_: None)
    monkeypatch.setattr(notifications, "SILENCE_SECONDS", 0.1)
    until(lambda: got.states == [True, False], "the listener notices the silence")
    assert not listener.is_live


def test_broker_that_is_unreachable_at_the_start_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifications, "ECHO_SECONDS", 0.05)
    monkeypatch.setattr(notifications, "SILENCE_SECONDS", 0.2)
    states: list[bool] = []
    listener = _listener("rabbit://guest:guest@127.0.0.1:1/", states.append)
    listener.start()
    until(lambda: states == [False], "the silence is reported")
    listener.stop()


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "oslo_messaging", None)
    listener = _listener("rabbit://guest:guest@127.0.0.1:5672/")
    with pytest.raises(NotificationsUnavailableError, match=r"openimds\[notifications\]"):
        listener.start()


def test_invalid_url_is_refused_without_its_password() -> None:
    with pytest.raises(NotificationsUnavailableError, match="transport_url is not usable") as refused:
        _listener("carrot://user:sesame@host/").start()
    assert "sesame" not in str(refused.value)


def _listener(url: str, on_live: Callable[[bool], None] = lambda _live: None) -> NotificationListener:
    return NotificationListener(
        messaging_conf(),
        transport_url=url,
        topics=["notifications"],
        name="test",
        on_changed=lambda _changed: None,
        on_live=on_live,
    )
