"""Guests in their instances' namespaces, for tests that move addresses between them."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import cycle
from typing import TypeVar

from openimds.linux.netlink.addresses import add_address, all_addresses, delete_address
from openimds.linux.netlink.links import all_links
from openimds.linux.netlink.routes import put_route
from openimds.linux.netns import netns
from openimds.netconfig.namespace_state import Route

METADATA = "169.254.169.254"
TIMEOUT_SECONDS = 60.0
KEPT_CONNECTION_TIMEOUT_SECONDS = 3.0
"""The timeout of a request on a kept connection, after which the guest opens a new one.

The last packets of the peer may have gone to the guest that had the address at that time, so that the peer is gone without
a FIN. Otherwise TCP's exponential retransmission back-off may last up to a minute after the address is back.
"""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    body: bytes
    retry_after: str | None


@dataclass(slots=True)
class Guest:
    """An instance with its port, a word that only its documents contain, and a thread in its namespace."""

    namespace: str
    port_id: str
    canary: str
    server_id: str
    home: str
    """The address that is not moved."""
    addresses: tuple[str, ...] = ()
    _thread: ThreadPoolExecutor = field(init=False)
    _kept: dict[str, http.client.HTTPConnection] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "guest", lambda: netns.enter(self.namespace))

    def inside(self, work: Callable[[], T]) -> Future[T]:
        return self._thread.submit(work)

    def settle(self, subnet: str) -> None:
        """Replaces the addresses of the boot by `home`, with routes that do not depend on the moved addresses."""

        def work() -> None:
            link = self._link()
            for one in all_addresses():
                if one.link_index == link and ":" not in one.interface:
                    delete_address(link, one.interface)
            add_address(link, f"{self.home}/32")  # a device that loses its last address loses its routes
            for to in (f"{METADATA}/32", subnet):
                put_route(Route(destination=to, gateway=None, device=""), link)

        self.inside(work).result()

    def use_addresses(self, addresses: tuple[str, ...]) -> Future[None]:
        """Replaces the moved addresses of the guest's device."""
        before, self.addresses = self.addresses, addresses

        def work() -> None:
            link = self._link()
            for address in before:
                delete_address(link, f"{address}/32")
            for address in addresses:
                add_address(link, f"{address}/32")

        return self.inside(work)

    def ask(self, path: str, *, keeps: bool = False, address: str | None = None) -> Future[Response]:
        """Sends a GET request from `address` (the first moved one by default), on a new or on the kept connection."""
        address = address or self.addresses[0]
        return self.inside(
            lambda: self._ask_on_kept_connection(path, address) if keeps else self._ask_on_new_connection(path, address)
        )

    def poll(self, path: str, addresses: Sequence[str], over: threading.Event) -> Future[list[tuple[str, Response]]]:
        """Sends requests from these addresses in turn until `over` is set. Returns the responses with their source address.

        New and kept connections alternate after each pass over the addresses.
        """

        def work() -> list[tuple[str, Response]]:
            answers: list[tuple[str, Response]] = []
            for number, address in enumerate(cycle(addresses)):
                if over.is_set():
                    break
                asks = self._ask_on_kept_connection if number // len(addresses) % 2 else self._ask_on_new_connection
                answers.append((address, asks(path, address)))
            return answers

        return self.inside(work)

    def close(self) -> None:
        for connection in self._kept.values():
            connection.close()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _ask_on_new_connection(self, path: str, address: str) -> Response:
        connection = _connection(address)
        try:
            return _response(connection, path, "close")
        finally:
            connection.close()

    def _ask_on_kept_connection(self, path: str, address: str) -> Response:
        connection = self._kept.get(address)
        if connection is not None and connection.sock is not None:
            connection.sock.settimeout(KEPT_CONNECTION_TIMEOUT_SECONDS)
            try:
                return _response(connection, path, "keep-alive")
            except (OSError, http.client.HTTPException):
                # The server may have closed the idle connection. Clients retry on a new one.
                connection.close()
        connection = self._kept[address] = _connection(address)
        return _response(connection, path, "keep-alive")

    def _link(self) -> int:
        return next(link.index for link in all_links() if link.name != "lo")


def _connection(address: str) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(METADATA, 80, timeout=TIMEOUT_SECONDS, source_address=(address, 0))


def _response(connection: http.client.HTTPConnection, path: str, keeping: str) -> Response:
    connection.request("GET", path, headers={"Connection": keeping})
    answer = connection.getresponse()
    return Response(answer.status, answer.read(), answer.getheader("Retry-After"))
