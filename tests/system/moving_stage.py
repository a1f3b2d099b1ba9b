"""A network whose guests' addresses move while the guests send requests. Each response is checked.

The documents of each instance contain a word that no other instance has. The addresses are moved in the control API and then
in the guests' namespaces. Port security is off, so that only the identification of the client protects an instance's data.
"""

from __future__ import annotations

import base64
import re
import secrets
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tests.system.api_client import ApiClient, Network
from tests.system.cloud import Cloud
from tests.system.moving_guest import Guest, Response
from tests.waiting import HANG_SECONDS, until

SUBNET = "10.77.0.0/24"
GUESTS = 6
ADDRESSES = 10
"""The number of moved addresses of each guest."""
DOCUMENTS = ("/latest/user-data", "/latest/meta-data/hostname", "/openstack/latest/meta_data.json")


@dataclass(slots=True)
class Stage:
    cloud: Cloud
    metadata_proxy: str
    metrics_port: int
    api: ApiClient
    guests: list[Guest]
    network_id: str
    subnet_id: str
    seen_revision: int = 0
    """The last port revision that the metadata agent has received."""
    statuses: Counter[str] = field(default_factory=Counter)
    moves: int = 0

    def check(self, guest: Guest, response: Response) -> None:
        """The response has the guest's own data or no data."""
        others = [one.canary for one in self.guests if one is not guest and one.canary.encode() in response.body]
        assert not others, f"{guest.canary} received {response}"
        assert response.status in (200, 404, 503), response
        if response.status == 200:
            assert guest.canary.encode() in response.body
        self.statuses[str(response.status)] += 1

    def ask(self, path: str, *, keeps: bool = False, from_all: bool = False) -> list[Response]:
        """Sends one request from each guest, or from each of its moved addresses, concurrently."""
        asked = [
            (guest, guest.ask(path, keeps=keeps, address=address))
            for guest in self.guests
            for address in (guest.addresses if from_all else guest.addresses[:1])
        ]
        answers = [(guest, answer.result()) for guest, answer in asked]
        for guest, response in answers:
            self.check(guest, response)
        return [response for _guest, response in answers]

    def wait_all_served(self) -> None:
        """Waits until each guest receives its own data, on new and on kept connections."""
        for keeps in (False, True):
            until(partial(self._are_served, keeps=keeps), "each guest receives its own data")

    def _are_served(self, *, keeps: bool) -> bool:
        return {response.status for response in self.ask(DOCUMENTS[0], keeps=keeps, from_all=True)} == {200}

    def rotate(self, api: ApiClient | None = None) -> None:
        """Gives each guest's addresses to the next guest: first in the control API, then in the namespaces.

        Between the two steps a guest still sends from addresses that belong to another guest in the control API. In haproxy
        mode only the address identifies the client, so that the guests use these addresses only in direct mode.
        """
        addresses = [guest.addresses for guest in self.guests]
        sources = [
            [guest.home, *(guest.addresses[:2] if self.metadata_proxy == "direct" else ())] for guest in self.guests
        ]
        with self._polled(sources):
            self._set_all_addresses(api or self.api, [addresses[-1], *addresses[:-1]])
        self.settle([addresses[-1], *addresses[:-1]])
        self.moves += sum(len(guest.addresses) for guest in self.guests)

    def _set_all_addresses(self, api: ApiClient, addresses: list[tuple[str, ...]]) -> None:
        first = self.guests[0]
        self.set_addresses(first, (), api)  # two ports cannot have the same address
        for guest, new in list(zip(self.guests, addresses, strict=True))[1:]:
            self.set_addresses(guest, new, api)
        self.set_addresses(first, addresses[0], api)

    def set_addresses(self, guest: Guest, addresses: tuple[str, ...], api: ApiClient | None = None) -> None:
        (api or self.api).set_addresses(guest.port_id, self.subnet_id, (guest.home, *addresses))

    @contextmanager
    def _polled(self, sources: list[list[str]]) -> Iterator[None]:
        """Each guest sends requests from its `sources` during the block."""
        over = threading.Event()
        polls = [guest.poll(DOCUMENTS[0], own, over) for guest, own in zip(self.guests, sources, strict=True)]
        try:
            yield
        finally:
            over.set()
            wait(polls)
        for guest, poll in zip(self.guests, polls, strict=True):
            for address, response in poll.result():
                self.check(guest, response)
                assert response.status != 404 or address != guest.home, f"{guest.canary} always has {address}"

    def settle(self, addresses: list[tuple[str, ...]]) -> None:
        _wait([guest.use_addresses(address) for guest, address in zip(self.guests, addresses, strict=True)])
        # Otherwise the kernel would send the responses to the former owner's MAC until its neighbour entry expires.
        self.cloud.inside(f"qdhcp-{self.network_id}", "ip", "neigh", "flush", "to", SUBNET)

    def wait_for_port_changes(self) -> None:
        """Waits until the agent has received all port changes up to now."""
        self.seen_revision = self.api.revision_of_ports(self.seen_revision)
        until(lambda: self.metric("port_mirror_revision") >= self.seen_revision, "the agent receives the port changes")

    def wait_for_content(self, guest: Guest, document: str, new: str) -> None:
        """Waits for the new content. The old content is then not received again on any connection."""
        until(lambda: new.encode() in guest.ask(document).result().body, f"{new} is received")
        for keeps in (True, False):
            assert new.encode() in guest.ask(document, keeps=keeps).result().body

    def metric(self, name: str) -> float:
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=HANG_SECONDS) as answer:
            found = re.search(rf"(?m)^openimds_metadata_agent_{name} (\S+)$", answer.read().decode())
        return float(found.group(1)) if found else -1.0


def build(cloud: Cloud, metadata_proxy: str, metrics_port: int) -> Stage:
    api = ApiClient(cloud)
    network_id = api.create("network", "/v2.0/networks", network={"name": "n", "port_security_enabled": False})["id"]
    network = Network(network_id, api.subnet(network_id, ip_version=4, cidr=SUBNET))
    guests = [_boot(api, network, number) for number in range(GUESTS)]
    for guest in guests:
        cloud.wait_booted(guest.server_id, guest.canary)
        guest.settle(SUBNET)
    stage = Stage(
        cloud, metadata_proxy, metrics_port, api, guests, network.id, network.subnet_id, seen_revision=api.revision()
    )
    addresses = addresses_from(101)
    for guest, address in zip(guests, addresses, strict=True):
        stage.set_addresses(guest, address)
    stage.settle(addresses)
    stage.wait_for_port_changes()
    stage.wait_all_served()
    return stage


def _boot(api: ApiClient, network: Network, number: int) -> Guest:
    canary = f"canary-{number}-{secrets.token_hex(6)}"
    port_id = api.create("network", "/v2.0/ports", port={"network_id": network.id})["id"]
    user_data = base64.b64encode(canary.encode()).decode()
    server_id = api.server(canary, network, networks=[{"port": port_id}], user_data=user_data)
    namespace = f"{api.cloud.prefix}qvm-{server_id}"
    return Guest(namespace, port_id, canary, server_id=server_id, home=f"10.77.0.{201 + number}")


def addresses_from(first: int) -> list[tuple[str, ...]]:
    """The moved addresses of each guest, from 10.77.0.`first` on."""
    starts = range(first, first + GUESTS * ADDRESSES, ADDRESSES)
    return [tuple(f"10.77.0.{start + number}" for number in range(ADDRESSES)) for start in starts]


def _wait(futures: list[Future[Any]]) -> None:
    wait(futures)
    for future in futures:
        future.result()
