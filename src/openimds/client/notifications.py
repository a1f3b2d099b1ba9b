"""Receives the notifications of Neutron and Nova over oslo.messaging (the extra `openimds[notifications]`).

A real Neutron has no watch. With its notifications the agent drops an outdated identity within milliseconds of the change,
and results of lookups may be cached for longer.

- Each process has a queue of its own (a pool of oslo.messaging), so other consumers of the same topics lose no message.
- The process sends itself an echo through the broker. Notifications are live while echoes arrive. A broker that is
  unreachable, a queue that is not consumed and credentials that expired are all noticed by this.
- Notifications invalidate cached state only. A forged or repeated notification can cause a query, and nothing else.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog
from oslo_config import cfg

from openimds.resources.network import NotifiedChange

log = structlog.get_logger(__name__)

EXCHANGES = ("neutron", "nova")
"""The exchanges that the two services publish to (`control_exchange`)."""
ECHO_SECONDS = 5.0
SILENCE_SECONDS = 15.0
"""The time without an echo after which notifications are no longer live."""
STOP_SECONDS = 1.0
_ECHO = "openimds.echo"
_NEUTRON_KINDS = frozenset({"port", "router", "subnet", "network"})
_NOVA_EVENTS = frozenset({"instance.delete.end", "instance.soft_delete.end", "compute.instance.delete.end"})


class NotificationsUnavailableError(Exception):
    """The listener cannot start. The message states the reason and the remedy."""


def changed_by(event_type: str, payload: Any) -> NotifiedChange | None:
    """The resources that a notification names. None if it names none that identities depend on.

    Neutron's events are `port.update.end`, `router.interface.create` and their kind; Nova's are the deletions of instances,
    versioned (`instance.delete.end`) and unversioned (`compute.instance.delete.end`).
    """
    if not isinstance(payload, Mapping):
        return None
    if event_type in _NOVA_EVENTS:
        data = payload.get("nova_object.data", payload)
        instance_id = data.get("uuid") or data.get("instance_id") if isinstance(data, Mapping) else None
        return NotifiedChange(instance_ids=frozenset({instance_id})) if isinstance(instance_id, str) else None
    kind, _, action = event_type.partition(".")
    if event_type in ("router.interface.create", "router.interface.delete"):
        interface = payload.get("router_interface")
        return _of_interface(interface) if isinstance(interface, Mapping) else None
    if kind not in _NEUTRON_KINDS or not action.endswith(".end"):
        return None
    return _of_resources(kind, payload)


def _of_interface(interface: Mapping[str, Any]) -> NotifiedChange:
    return NotifiedChange(
        router_ids=_ids(interface, "id"), port_ids=_ids(interface, "port_id"), network_ids=_ids(interface, "network_id")
    )


def _of_resources(kind: str, payload: Mapping[str, Any]) -> NotifiedChange | None:
    """A creation has `{kind: {…}}` or `{kind + "s": […]}`, a deletion has `{kind + "_id": …}` and, in later releases, both."""
    bodies = [payload.get(kind), *(payload.get(f"{kind}s") or ())]
    found = [body for body in bodies if isinstance(body, Mapping)]
    ids = _ids(payload, f"{kind}_id").union(*(_ids(body, "id") for body in found))
    if kind == "port":
        devices = [body for body in found if str(body.get("device_owner", "")).startswith("network:router")]
        routers = frozenset[str]().union(*(_ids(body, "device_id") for body in devices))
        of_each = [_ids(body, "network_id") for body in found]
        on_networks = frozenset[str]().union(*of_each) if all(of_each) else frozenset[str]()
        return NotifiedChange(port_ids=ids, port_network_ids=on_networks, router_ids=routers)
    if kind == "router":
        return NotifiedChange(router_ids=ids)
    if kind == "network":
        return NotifiedChange(network_ids=ids)
    networks = frozenset[str]().union(*(_ids(body, "network_id") for body in found))
    return NotifiedChange(network_ids=networks) if networks else None


def _ids(body: Mapping[str, Any], name: str) -> frozenset[str]:
    value = body.get(name)
    return frozenset({value}) if isinstance(value, str) and value else frozenset()


class NotificationListener:
    """Receives notifications on threads of oslo.messaging. Two further threads send echoes and check their arrival."""

    def __init__(
        self,
        conf: cfg.ConfigOpts,
        *,
        transport_url: str,
        topics: Sequence[str],
        name: str,
        on_changed: Callable[[NotifiedChange], None],
        on_live: Callable[[bool], None],
    ) -> None:
        """`conf`: the agent's files, for `[oslo_messaging_rabbit]`. `name`: the name of the queue, unique in the cloud.

        `on_changed` and `on_live` are called on threads of the listener. `on_live` receives False before any change can be
        lost, and True when changes arrive again. Changes before that may have been missed.
        """
        self._conf = conf
        self._transport_url = transport_url
        self._topics = tuple(topics)
        self._name = name
        self._on_changed = on_changed
        self._on_live = on_live
        self._run_id = uuid.uuid4().hex
        self._lock = threading.Lock()
        self._echoed_at: float | None = None
        self._is_live: bool | None = None
        """None until the first echo, or until SILENCE_SECONDS have passed without one."""
        self._started_at = 0.0
        self._is_started = False
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=target, name=name, daemon=True)
            for target, name in ((self._send_echoes, "notification-echo"), (self._watch, "notification-watch"))
        ]

    def start(self) -> None:
        """Raises NotificationsUnavailableError if oslo.messaging is not installed or the URL is not valid."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # its dependencies import the deprecated eventlet, which is not used
                import oslo_messaging  # noqa: PLC0415 - an optional extra
        except ImportError:
            raise NotificationsUnavailableError(
                "the package oslo.messaging is not installed; install openimds[notifications], or remove "
                "[oslo_messaging_notifications] transport_url"
            ) from None
        try:
            transport = oslo_messaging.get_notification_transport(self._conf, url=self._transport_url)
        except Exception as error:  # noqa: BLE001 - the drivers raise errors of their own libraries
            raise NotificationsUnavailableError(
                f"[oslo_messaging_notifications] transport_url is not usable: {type(error).__name__}; "
                "write it as in neutron.conf: rabbit://user:password@host:5672/"
            ) from None
        own = f"{self._name}.echo"
        targets = [
            oslo_messaging.Target(exchange=exchange, topic=topic) for exchange in EXCHANGES for topic in self._topics
        ]
        self._notifier = oslo_messaging.Notifier(
            transport, publisher_id=self._name, driver="messagingv2", topics=[own], retry=0
        )
        self._listener = oslo_messaging.get_notification_listener(
            transport,
            [*targets, oslo_messaging.Target(topic=own)],
            [_Endpoint(self._receive)],
            executor="threading",
            pool=self._name,
        )
        # It logs a traceback for each echo that is not sent. The driver logs the reason, and this module the effect.
        logging.getLogger("oslo.messaging.notify.messaging").setLevel(logging.CRITICAL)
        self._started_at = time.monotonic()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stops the consumption of messages. A thread that waits for an unreachable broker ends with the process."""
        self._stopping.set()
        if self._is_started:
            stopping = threading.Thread(target=self._stop_listener, name="notification-stop", daemon=True)
            stopping.start()
            stopping.join(STOP_SECONDS)

    @property
    def is_live(self) -> bool:
        return bool(self._is_live)

    def _stop_listener(self) -> None:
        self._listener.stop()
        self._listener.wait()

    def _send_echoes(self) -> None:
        with contextlib.suppress(Exception):
            # Blocks until the broker is reachable for the first time.
            self._listener.start()
            self._is_started = True
        while not self._stopping.is_set():
            try:
                self._notifier.info({}, _ECHO, {"run_id": self._run_id})  # blocks while the broker does not respond
            except Exception as error:  # noqa: BLE001 - the drivers raise errors of their own libraries
                log.debug("echo not sent", reason=str(error))
            self._stopping.wait(ECHO_SECONDS)

    def _watch(self) -> None:
        while not self._stopping.wait(ECHO_SECONDS):
            self._update()

    def _update(self) -> None:
        with self._lock:
            now = time.monotonic()
            is_live = self._echoed_at is not None and now - self._echoed_at < SILENCE_SECONDS
            is_starting = self._is_live is None and not is_live and now - self._started_at < SILENCE_SECONDS
            if is_live == self._is_live or is_starting:
                return
            self._is_live = is_live
            self._on_live(is_live)
        if is_live:
            log.info("notifications live", topics=list(self._topics), queue=self._name)
        else:
            log.warning(
                "notifications interrupted", queue=self._name, effect="lookups are cached for a short time only"
            )

    def _receive(self, event_type: str, payload: Any) -> None:
        if event_type == _ECHO:
            if isinstance(payload, Mapping) and payload.get("run_id") == self._run_id:
                with self._lock:
                    self._echoed_at = time.monotonic()
                self._update()
            return
        changed = changed_by(event_type, payload)
        if changed is not None:
            self._on_changed(changed)


class _Endpoint:
    """The endpoint of oslo.messaging. Its method names are the priorities that are consumed."""

    def __init__(self, receive: Callable[[str, Any], None]) -> None:
        self._receive = receive

    def info(self, _context: Any, _publisher: str, event_type: str, payload: Any, _metadata: Any) -> None:
        try:
            self._receive(event_type, payload)
        except Exception:
            log.exception("notification processing failed", event_type=event_type)
