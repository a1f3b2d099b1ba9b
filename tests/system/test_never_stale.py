"""No answer with a former owner's data: addresses move thousands of times while their guests ask.

Each instance's documents hold a word that no other's do. The guests' addresses are moved by the control API's REST and
then in the guests' namespaces; port security is off, so that nothing but who asks is between a guest and another's data.
Whatever takes the guests' requests, they poll during the moves: from an address of theirs that stays, and, where the agent
listens itself, from those that move as well.
"""

from __future__ import annotations

import base64
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from tests.ports import free_ports
from tests.system.cloud import BIN, METADATA_PROXIES, Cloud
from tests.system.conftest import unstarted_cloud
from tests.system.moving import Guest, Rest, Told
from tests.waiting import until

pytestmark = pytest.mark.timeout(900)

SUBNET = "10.77.0.0/24"
GUESTS = 6
ADDRESSES = 10
"""Of each guest, that move; one more stays."""
ROUNDS = 34
"""Each moves all of every guest's addresses to another guest."""
DOCUMENTS = ("/latest/user-data", "/latest/meta-data/hostname", "/openstack/latest/meta_data.json")
MAX_STALENESS_SECONDS = 4
CHANGES = 30
REBUILDS = 2


@dataclass(slots=True)
class Stage:
    cloud: Cloud
    metadata_proxy: str
    metrics_port: int
    rest: Rest
    guests: list[Guest]
    network_id: str
    subnet_id: str
    heard: int = 0
    """The revision of ports that was heard of last."""
    told: Counter[str] = field(default_factory=Counter)
    moves: int = 0

    def judge(self, guest: Guest, told: Told) -> None:
        """Its own data, or none."""
        others = [one.canary for one in self.guests if one is not guest and one.canary.encode() in told.body]
        assert not others, f"{guest.canary} was told {told}"
        assert told.status in (200, 404, 503), told
        if told.status == 200:
            assert guest.canary.encode() in told.body
        self.told[str(told.status)] += 1

    def ask(self, path: str, *, keeps: bool = False, from_all: bool = False) -> list[Told]:
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

    def rotate(self, rest: Rest | None = None) -> None:
        """At the control API every guest's addresses are the next one's; then the guests themselves change.

        Between the two a guest still sends from an address that is another's at the control API. Where the address alone
        tells who asks that is the other's question, so that only in direct mode guests then ask from it.
        """
        addresses = [guest.addresses for guest in self.guests]
        sources = [
            [guest.home, *(guest.addresses[:2] if self.metadata_proxy == "direct" else ())] for guest in self.guests
        ]
        with self._polled(sources):
            self._give(rest or self.rest, [addresses[-1], *addresses[:-1]])
        self.settle([addresses[-1], *addresses[:-1]])
        self.moves += sum(len(guest.addresses) for guest in self.guests)

    def _give(self, rest: Rest, addresses: list[tuple[str, ...]]) -> None:
        first = self.guests[0]
        self.give(first, (), rest)  # an address belongs to one port at a time
        for guest, new in list(zip(self.guests, addresses, strict=True))[1:]:
            self.give(guest, new, rest)
        self.give(first, addresses[0], rest)

    def give(self, guest: Guest, addresses: tuple[str, ...], rest: Rest | None = None) -> None:
        (rest or self.rest).give(guest.port_id, self.subnet_id, (guest.home, *addresses))

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

    def until_heard(self) -> None:
        """The agent has heard of all that was changed of ports by now."""
        self.heard = self.rest.revision_of_ports(self.heard)
        until(lambda: self.figure("knowledge_revision") >= self.heard, "the agent hears of the ports")

    def until_seen(self, guest: Guest, document: str, new: str) -> None:
        """The new is there; from then on it is never seen old again, on no connection."""
        until(lambda: new.encode() in guest.ask(document).result().body, f"{new} is seen")
        for keeps in (True, False):
            assert new.encode() in guest.ask(document, keeps=keeps).result().body

    def figure(self, name: str) -> float:
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            found = re.search(rf"(?m)^openimds_metadata_agent_{name} (\S+)$", answer.read().decode())
        return float(found.group(1)) if found else -1.0


@pytest.fixture(scope="module", params=METADATA_PROXIES)
def stage(request: pytest.FixtureRequest, only_root: None) -> Iterator[Stage]:
    cloud = unstarted_cloud()
    stage: Stage | None = None
    try:
        (metrics_port,) = free_ports(1)
        agent, ways = cloud.state_dir.parent / "agent.ini", cloud.state_dir.parent / "ways.ini"
        agent.write_text(
            f"[DEFAULT]\nmetadata_max_staleness = {MAX_STALENESS_SECONDS}\n[metrics]\nport = {metrics_port}\n"
        )
        ways.write_text("[DEFAULT]\nforce_metadata = True\n")
        cloud.up(
            "--metadata-proxy", request.param, f"--config-file=metadata-agent={agent}", f"--config-file=dhcp-agent={ways}",
        )  # fmt: skip
        stage = _build(cloud, request.param, metrics_port)
        yield stage
    finally:
        for guest in stage.guests if stage is not None else ():
            guest.close()
        if stage is not None:
            stage.rest.close()
        cloud.remove()


def _build(cloud: Cloud, metadata_proxy: str, metrics_port: int) -> Stage:
    rest = Rest(cloud.state_dir / "etc" / "clouds.yaml")
    network = {"name": "n", "port_security_enabled": False}
    network_id = rest.network("POST", "/networks", {"network": network})["network"]["id"]
    subnet = {"network_id": network_id, "cidr": SUBNET, "ip_version": 4}
    subnet_id = rest.network("POST", "/subnets", {"subnet": subnet})["subnet"]["id"]
    guests = [_boot(cloud, rest, network_id, number) for number in range(GUESTS)]
    for guest in guests:
        _until_booted(cloud, guest, guest.canary)
        guest.settle(SUBNET)
    stage = Stage(cloud, metadata_proxy, metrics_port, rest, guests, network_id, subnet_id, heard=rest.revision())
    addresses = _addresses(101)
    for guest, address in zip(guests, addresses, strict=True):
        stage.give(guest, address)
    stage.settle(addresses)
    stage.until_heard()
    stage.all_served()
    return stage


def _boot(cloud: Cloud, rest: Rest, network_id: str, number: int) -> Guest:
    canary = f"canary-{number}-{secrets.token_hex(6)}"
    port = {"network_id": network_id}
    port_id = rest.network("POST", "/ports", {"port": port})["port"]["id"]
    image = rest.call("image", "GET", "/v2/images")["images"][0]["id"]
    flavor = rest.call("compute", "GET", "/flavors")["flavors"][0]["id"]
    server = {
        "name": canary,
        "imageRef": image,
        "flavorRef": flavor,
        "networks": [{"port": port_id}],
        "user_data": base64.b64encode(canary.encode()).decode(),
    }
    server_id = rest.call("compute", "POST", "/servers", {"server": server}, version="2.37")["server"]["id"]
    return Guest(f"{cloud.prefix}qvm-{server_id}", port_id, canary, server_id=server_id, home=f"10.77.0.{201 + number}")


def _until_booted(cloud: Cloud, guest: Guest, hostname: str) -> None:
    console = cloud.state_dir / "instances" / guest.server_id / "console.log"
    until(
        lambda: console.exists() and f"{hostname} login:" in console.read_text(errors="replace"),
        f"{hostname} has booted",
    )


def test_addresses_that_move_thousands_of_times(stage: Stage) -> None:
    for number in range(ROUNDS):
        stage.rotate()
        if stage.metadata_proxy == "haproxy":
            # The address alone tells who asks: as soon as the agent has heard. With a MAC it is so before.
            stage.until_heard()
        stage.ask(DOCUMENTS[number % 3], from_all=True)
        stage.ask(DOCUMENTS[number % 2], keeps=True, from_all=True)
    stage.all_served()
    sys.stdout.write(f"{stage.metadata_proxy}: {stage.moves} moves, answers {dict(stage.told)}, none of them stale\n")
    assert stage.moves >= 2000
    assert stage.told["200"] >= stage.moves


def test_what_is_set_anew_is_not_seen_old_again(stage: Stage) -> None:
    guest = stage.guests[0]
    server = f"/servers/{guest.server_id}"
    for number in range(CHANGES):
        stage.rest.call("compute", "POST", f"{server}/metadata", {"metadata": {"number": f"number-{number}"}})
        stage.until_seen(guest, DOCUMENTS[2], f'"number-{number}"')
        names = {"name": f"name-{number}", "hostname": f"{guest.canary}-host-{number}"}
        stage.rest.call("compute", "PUT", server, {"server": names}, version="2.90")
        stage.until_seen(guest, DOCUMENTS[2], f'"name-{number}"')
        stage.until_seen(guest, DOCUMENTS[1], f"-host-{number}")


def test_a_rebuilt_server_never_gets_what_it_was_built_with_before(stage: Stage) -> None:
    guest = stage.guests[1]
    server = f"/servers/{guest.server_id}"
    image = stage.rest.call("image", "GET", "/v2/images")["images"][0]["id"]
    for number in range(REBUILDS):
        name, word = f"{guest.canary}-built-{number}", f"{guest.canary} built-{number}"
        wanted = {
            "imageRef": image,
            "name": name,
            "hostname": name,
            "metadata": {"built": f"built-{number}"},
            "user_data": base64.b64encode(word.encode()).decode(),
        }
        stage.rest.call("compute", "POST", f"{server}/action", {"rebuild": wanted}, version="2.90")
        _until_booted(stage.cloud, guest, name)  # it has asked what its name is: by then the new data are out
        until(lambda: stage.rest.call("compute", "GET", server)["server"]["status"] == "ACTIVE", "it is active again")
        guest.settle(SUBNET)
        guest.take(guest.addresses).result()
        for document, new in zip(DOCUMENTS, (word, name, f'"built-{number}"'), strict=True):
            for keeps in (True, False):
                told = guest.ask(document, keeps=keeps).result()
                assert told.status == 200
                assert new.encode() in told.body
    stage.all_served()


def test_while_the_news_are_cut_off(stage: Stage) -> None:
    """Our control API stands still, another of the same cloud moves the addresses: the agent cannot hear of it."""
    with _other_control_api(stage.cloud) as elsewhere:
        with _stopped(stage.cloud, "control-api"):
            if stage.metadata_proxy == "haproxy":
                until(lambda: stage.figure("knowledge_age_seconds") > MAX_STALENESS_SECONDS, "the knowledge is old")
                until(lambda: "too old to be believed" in stage.cloud.log("metadata-agent"), "the agent says so")
            stage.rotate(elsewhere)
            for keeps in (False, True):
                refused = stage.ask(DOCUMENTS[0], keeps=keeps)
                assert {told.status for told in refused} == {503}
                assert {told.retry_after for told in refused} == {"1"}
        stage.all_served()  # again


def test_who_is_not_known_yet_is_held_and_then_answered(stage: Stage) -> None:
    with _other_control_api(stage.cloud) as elsewhere:
        new = _addresses(21)
        with _stopped(stage.cloud, "control-api"):
            for guest, address in zip(stage.guests, new, strict=True):
                stage.give(guest, address, elsewhere)
            stage.settle(new)
            held = [(guest, guest.ask(DOCUMENTS[0])) for guest in stage.guests]
        for guest, answer in held:
            told = answer.result()
            stage.judge(guest, told)
            assert told.status in (200, 503)  # never no
    stage.all_served()


def test_an_agent_that_starts_while_the_control_api_is_away(stage: Stage) -> None:
    cloud = stage.cloud
    said = cloud.log("metadata-agent").count("the control API is lost")
    before = cloud.part("metadata-agent")["pid"]
    with _stopped(cloud, "control-api"):
        os.kill(before, signal.SIGTERM)
        until(lambda: cloud.part("metadata-agent")["pid"] not in (None, before), "another agent is started")
        assert {told.status for told in stage.ask(DOCUMENTS[0])} <= {503}
    stage.all_served()
    assert cloud.log("metadata-agent").count("the control API is lost") - said <= 1


def test_a_deleted_port_s_address_is_given_out_again(stage: Stage) -> None:
    gone, heir = stage.guests.pop(), stage.guests[0]
    stage.rest.network("DELETE", f"/ports/{gone.port_id}")
    stage.give(heir, gone.addresses)
    heir.take(gone.addresses).result()
    stage.cloud.inside(f"qdhcp-{stage.network_id}", "ip", "neigh", "flush", "to", SUBNET)
    if stage.metadata_proxy == "haproxy":
        stage.until_heard()

    def is_served() -> bool:
        told = heir.ask(DOCUMENTS[0]).result()
        assert gone.canary.encode() not in told.body
        return told.status == 200 and heir.canary.encode() in told.body

    until(is_served, "who has the address now has its own data")
    gone.close()


def _addresses(first: int) -> list[tuple[str, ...]]:
    """Each guest's, from 10.77.0.`first` on."""
    starts = range(first, first + GUESTS * ADDRESSES, ADDRESSES)
    return [tuple(f"10.77.0.{start + number}" for number in range(ADDRESSES)) for start in starts]


def _done(futures: list[Future[Any]]) -> None:
    wait(futures)
    for future in futures:
        future.result()


@contextmanager
def _stopped(cloud: Cloud, part: str) -> Iterator[None]:
    pid = cloud.part(part)["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def _other_control_api(cloud: Cloud) -> Iterator[Rest]:
    """Another process on the same store, that our agents do not know of."""
    (port,) = free_ports(1)
    own = cloud.state_dir.parent / "other.conf"
    own.write_text(f"[control_api]\nport = {port}\n[keystone_authtoken]\nauth_url = http://127.0.0.1:{port}/v3\n")
    files = [f"--config-file={file}" for file in (cloud.state_dir / "etc" / "nova.conf", own)]
    log = (cloud.state_dir.parent / "other.log").open("w")
    process = subprocess.Popen([str(BIN / "openimds"), "control-api", *files], stdout=log, stderr=log)
    rest = Rest(cloud.state_dir / "etc" / "clouds.yaml", f"http://127.0.0.1:{port}/v3")
    try:
        until(lambda: _answers(port), "the other control API answers")
        yield rest
    finally:
        rest.close()
        process.terminate()
        process.wait(30)
        log.close()


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v3", timeout=5):
            return True
    except OSError:
        return False
