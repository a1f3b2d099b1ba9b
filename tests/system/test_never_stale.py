"""No answer with a former owner's data: addresses move thousands of times while their guests ask.

Whatever takes the guests' requests, they poll during the moves: from an address of theirs that stays, and, where the agent
listens itself, from those that move as well.
"""

from __future__ import annotations

import base64
import os
import signal
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from tests.ports import free_ports
from tests.system.api_client import ApiClient
from tests.system.cloud import BIN, METADATA_PROXIES, Cloud
from tests.system.conftest import unstarted_cloud
from tests.system.moving_stage import DOCUMENTS, SUBNET, Stage, addresses_from, build
from tests.waiting import HANG_SECONDS, until

pytestmark = pytest.mark.timeout(900)

ROUNDS = 34
"""Each moves all of every guest's addresses to another guest."""
MAX_STALENESS_SECONDS = 4
CHANGES = 30
REBUILDS = 2


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
        stage = build(cloud, request.param, metrics_port)
        yield stage
    finally:
        for guest in stage.guests if stage is not None else ():
            guest.close()
        cloud.remove()


def test_addresses_that_move_thousands_of_times(stage: Stage) -> None:
    for number in range(ROUNDS):
        stage.rotate()
        if stage.metadata_proxy == "haproxy":
            # The address alone tells who asks: as soon as the agent has heard. With a MAC it is so before.
            stage.wait_for_port_changes()
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
        stage.api.set_properties(guest.server_id, number=f"number-{number}")
        stage.until_seen(guest, DOCUMENTS[2], f'"number-{number}"')
        names = {"name": f"name-{number}", "hostname": f"{guest.canary}-host-{number}"}
        stage.api.call("compute", "PUT", server, {"server": names}, microversion="2.90")
        stage.until_seen(guest, DOCUMENTS[2], f'"name-{number}"')
        stage.until_seen(guest, DOCUMENTS[1], f"-host-{number}")


def test_a_rebuilt_server_never_gets_what_it_was_built_with_before(stage: Stage) -> None:
    guest = stage.guests[1]
    server = f"/servers/{guest.server_id}"
    image = stage.api.get("image", "/v2/images")["images"][0]["id"]
    for number in range(REBUILDS):
        name, word = f"{guest.canary}-built-{number}", f"{guest.canary} built-{number}"
        wanted = {
            "imageRef": image,
            "name": name,
            "hostname": name,
            "metadata": {"built": f"built-{number}"},
            "user_data": base64.b64encode(word.encode()).decode(),
        }
        stage.api.call("compute", "POST", f"{server}/action", {"rebuild": wanted}, microversion="2.90")
        stage.cloud.wait_booted(guest.server_id, name)  # it has asked what its name is: by then the new data are out
        until(lambda: stage.api.get("compute", server)["server"]["status"] == "ACTIVE", "it is active again")
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
        with _control_api_stopped(stage.cloud):
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
        new = addresses_from(21)
        with _control_api_stopped(stage.cloud):
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
    with _control_api_stopped(cloud):
        os.kill(before, signal.SIGTERM)
        until(lambda: cloud.part("metadata-agent")["pid"] not in (None, before), "another agent is started")
        assert {told.status for told in stage.ask(DOCUMENTS[0])} <= {503}
    stage.all_served()
    assert cloud.log("metadata-agent").count("the control API is lost") - said <= 1


def test_a_deleted_port_s_address_is_given_out_again(stage: Stage) -> None:
    gone, heir = stage.guests.pop(), stage.guests[0]
    stage.api.delete("network", f"/v2.0/ports/{gone.port_id}")
    stage.give(heir, gone.addresses)
    heir.take(gone.addresses).result()
    stage.cloud.inside(f"qdhcp-{stage.network_id}", "ip", "neigh", "flush", "to", SUBNET)
    if stage.metadata_proxy == "haproxy":
        stage.wait_for_port_changes()

    def is_served() -> bool:
        told = heir.ask(DOCUMENTS[0]).result()
        assert gone.canary.encode() not in told.body
        return told.status == 200 and heir.canary.encode() in told.body

    until(is_served, "who has the address now has its own data")
    gone.close()


@contextmanager
def _control_api_stopped(cloud: Cloud) -> Iterator[None]:
    """Between two of its writes: stopped within one it would keep the other control API from writing."""
    pid = cloud.part("control-api")["pid"]
    until(lambda: _is_stopped_between_writes(cloud, pid), "the control API is stopped, and the store can be written")
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _is_stopped_between_writes(cloud: Cloud, pid: int) -> bool:
    os.kill(pid, signal.SIGSTOP)
    until(lambda: {_state(task) for task in Path(f"/proc/{pid}/task").iterdir()} == {"T"}, "its threads stand still")
    with closing(sqlite3.connect(cloud.state_dir / "openimds.sqlite", timeout=0, isolation_level=None)) as store:
        try:
            store.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            os.kill(pid, signal.SIGCONT)
            return False
        store.execute("ROLLBACK")
    return True


def _state(task: Path) -> str:
    """proc_pid_stat(5); empty when it has ended meanwhile."""
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


@contextmanager
def _other_control_api(cloud: Cloud) -> Iterator[ApiClient]:
    """Another process on the same store, that our agents do not know of."""
    (port,) = free_ports(1)
    own = cloud.state_dir.parent / "other.conf"
    own.write_text(f"[control_api]\nport = {port}\n[keystone_authtoken]\nauth_url = http://127.0.0.1:{port}/v3\n")
    files = [f"--config-file={file}" for file in (cloud.state_dir / "etc" / "nova.conf", own)]
    log = (cloud.state_dir.parent / "other.log").open("w")
    process = subprocess.Popen([str(BIN / "openimds"), "control-api", *files], stdout=log, stderr=log)
    try:
        until(lambda: _answers(port), "the other control API answers")
        yield ApiClient(cloud, f"http://127.0.0.1:{port}/v3")
    finally:
        process.terminate()
        process.wait(HANG_SECONDS)
        log.close()


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v3", timeout=5):
            return True
    except OSError:
        return False
