"""A network whose guests' addresses move while they ask, and every answer is judged.

Each instance's documents hold a word that no other's do. The guests' addresses are moved by the control API's REST and
then in the guests' namespaces; port security is off, so that nothing but who asks is between a guest and another's data.
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
"""Of each guest, that move; one more stays."""
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
    heard: int = 0
    """The revision of ports that was heard of last."""
    told: Counter[str] = field(default_factory=Counter)
    moves: int = 0

    def judge(self, guest: Guest, told: Response) -> None:
        """Its own data, or none."""
        others = [one.canary for one in self.guests if one is not guest and one.canary.encode() in told.body]
        assert not others, f"{guest.canary} was told {told}"
        assert told.status in (200, 404, 503), told
        if told.status == 200:
            assert guest.canary.encode() in told.body
        self.told[str(told.status)] += 1

    def ask(self, path: str, *, keeps: bool = False, from_all: bool = False) -> list[Response]:
        """All guests at once, from the first or from all of their addresses."""
        asked = [
            (guest, guest.ask(path, keeps=keeps, address=address))
            for guest in self.guests
            for address in (guest.addresses if from_all else guest.addresses[:1])
        ]
        answers = [(guest, answer.result()) for guest, answer in asked]
        for guest, told in answers:
            self.judge(guest, told)
        return [told for _guest, told in answers]

    def all_served(self) -> None:
        """Every guest has its own data, over new and over kept connections."""
        for keeps in (False, True):
            until(partial(self._are_served, keeps=keeps), "each guest has its own")

    def _are_served(self, *, keeps: bool) -> bool:
        return {told.status for told in self.ask(DOCUMENTS[0], keeps=keeps, from_all=True)} == {200}

    def rotate(self, api: ApiClient | None = None) -> None:
        """At the control API every guest's addresses are the next one's; then the guests themselves change.

        Between the two a guest still sends from an address that is another's at the control API. Where the address alone
        tells who asks that is the other's question, so that only in direct mode guests then ask from it.
        """
        addresses = [guest.addresses for guest in self.guests]
        sources = [
            [guest.home, *(guest.addresses[:2] if self.metadata_proxy == "direct" else ())] for guest in self.guests
        ]
        with self._polled(sources):
            self._give(api or self.api, [addresses[-1], *addresses[:-1]])
        self.settle([addresses[-1], *addresses[:-1]])
        self.moves += sum(len(guest.addresses) for guest in self.guests)

    def _give(self, api: ApiClient, addresses: list[tuple[str, ...]]) -> None:
        first = self.guests[0]
        self.give(first, (), api)  # an address belongs to one port at a time
        for guest, new in list(zip(self.guests, addresses, strict=True))[1:]:
            self.give(guest, new, api)
        self.give(first, addresses[0], api)

    def give(self, guest: Guest, addresses: tuple[str, ...], api: ApiClient | None = None) -> None:
        (api or self.api).give(guest.port_id, self.subnet_id, (guest.home, *addresses))

    @contextmanager
    def _polled(self, sources: list[list[str]]) -> Iterator[None]:
        """Meanwhile every guest asks again and again, from these of its addresses."""
        over = threading.Event()
        polls = [guest.poll(DOCUMENTS[0], own, over) for guest, own in zip(self.guests, sources, strict=True)]
        try:
            yield
        finally:
            over.set()
            wait(polls)
        for guest, poll in zip(self.guests, polls, strict=True):
            for address, told in poll.result():
                self.judge(guest, told)
                assert told.status != 404 or address != guest.home, f"{guest.canary} has {address} all the time"

    def settle(self, addresses: list[tuple[str, ...]]) -> None:
        _done([guest.take(address) for guest, address in zip(self.guests, addresses, strict=True)])
        # The namespace would believe for a second who had the address before, and answer there: no fault of ours.
        self.cloud.inside(f"qdhcp-{self.network_id}", "ip", "neigh", "flush", "to", SUBNET)

    def wait_for_port_changes(self) -> None:
        """The agent has heard of all that was changed of ports by now."""
        self.heard = self.api.revision_of_ports(self.heard)
        until(lambda: self.figure("knowledge_revision") >= self.heard, "the agent hears of the ports")

    def until_seen(self, guest: Guest, document: str, new: str) -> None:
        """The new is there; from then on it is never seen old again, on no connection."""
        until(lambda: new.encode() in guest.ask(document).result().body, f"{new} is seen")
        for keeps in (True, False):
            assert new.encode() in guest.ask(document, keeps=keeps).result().body

    def figure(self, name: str) -> float:
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
    stage = Stage(cloud, metadata_proxy, metrics_port, api, guests, network.id, network.subnet_id, heard=api.revision())
    addresses = addresses_from(101)
    for guest, address in zip(guests, addresses, strict=True):
        stage.give(guest, address)
    stage.settle(addresses)
    stage.wait_for_port_changes()
    stage.all_served()
    return stage


def _boot(api: ApiClient, network: Network, number: int) -> Guest:
    canary = f"canary-{number}-{secrets.token_hex(6)}"
    port_id = api.create("network", "/v2.0/ports", port={"network_id": network.id})["id"]
    user_data = base64.b64encode(canary.encode()).decode()
    server_id = api.server(canary, network, networks=[{"port": port_id}], user_data=user_data)
    namespace = f"{api.cloud.prefix}qvm-{server_id}"
    return Guest(namespace, port_id, canary, server_id=server_id, home=f"10.77.0.{201 + number}")


def addresses_from(first: int) -> list[tuple[str, ...]]:
    """Each guest's, from 10.77.0.`first` on."""
    starts = range(first, first + GUESTS * ADDRESSES, ADDRESSES)
    return [tuple(f"10.77.0.{start + number}" for number in range(ADDRESSES)) for start in starts]


def _done(futures: list[Future[Any]]) -> None:
    wait(futures)
    for future in futures:
        future.result()
