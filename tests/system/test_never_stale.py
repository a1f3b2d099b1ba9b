"""A response never has the data of an address's former owner.

The addresses move thousands of times while the guests send requests, in both modes. During a move the guests send from the
address that is not moved, and in direct mode also from the moved addresses.
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
"""The number of rotations. Each gives all addresses of each guest to the next guest."""
MAX_STALENESS_SECONDS = 4
CHANGES = 30
REBUILDS = 2


@pytest.fixture(scope="module", params=METADATA_PROXIES)
def stage(request: pytest.FixtureRequest, only_root: None) -> Iterator[Stage]:
    cloud = unstarted_cloud()
    stage: Stage | None = None
    try:
        (metrics_port,) = free_ports(1)
        agent, dhcp = cloud.state_dir.parent / "agent.ini", cloud.state_dir.parent / "dhcp.ini"
        agent.write_text(
            f"[DEFAULT]\nmetadata_max_staleness = {MAX_STALENESS_SECONDS}\n[metrics]\nport = {metrics_port}\n"
        )
        dhcp.write_text("[DEFAULT]\nforce_metadata = True\n")
        cloud.up(
            "--metadata-proxy", request.param, f"--config-file=metadata-agent={agent}", f"--config-file=dhcp-agent={dhcp}",
        )  # fmt: skip
        stage = build(cloud, request.param, metrics_port)
        yield stage
    finally:
        for guest in stage.guests if stage is not None else ():
            guest.close()
        cloud.remove()


def test_moved_address_never_reads_its_former_owners_data(stage: Stage) -> None:
    for number in range(ROUNDS):
        stage.rotate()
        if stage.metadata_proxy == "haproxy":
            # Only the address identifies the client, so that the agent needs the change. The MAC identifies it immediately.
            stage.wait_for_port_changes()
        stage.ask(DOCUMENTS[number % 3], from_all=True)
        stage.ask(DOCUMENTS[number % 2], keeps=True, from_all=True)
    stage.wait_all_served()
    sys.stdout.write(
        f"{stage.metadata_proxy}: {stage.moves} moves, responses {dict(stage.statuses)}, none of them stale\n"
    )
    assert stage.moves >= 2000
    assert stage.statuses["200"] >= stage.moves


def test_changed_document_is_never_read_in_its_old_form_again(stage: Stage) -> None:
    guest = stage.guests[0]
    server = f"/servers/{guest.server_id}"
    for number in range(CHANGES):
        stage.api.set_properties(guest.server_id, number=f"number-{number}")
        stage.wait_for_content(guest, DOCUMENTS[2], f'"number-{number}"')
        names = {"name": f"name-{number}", "hostname": f"{guest.canary}-host-{number}"}
        stage.api.call("compute", "PUT", server, {"server": names}, microversion="2.90")
        stage.wait_for_content(guest, DOCUMENTS[2], f'"name-{number}"')
        stage.wait_for_content(guest, DOCUMENTS[1], f"-host-{number}")


def test_rebuilt_server_never_reads_the_documents_of_its_former_build(stage: Stage) -> None:
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
        stage.cloud.wait_booted(
            guest.server_id, name
        )  # the boot has read the hostname, so that the new documents are in effect
        until(lambda: stage.api.get("compute", server)["server"]["status"] == "ACTIVE", "the server is ACTIVE again")
        guest.settle(SUBNET)
        guest.use_addresses(guest.addresses).result()
        for document, new in zip(DOCUMENTS, (word, name, f'"built-{number}"'), strict=True):
            for keeps in (True, False):
                response = guest.ask(document, keeps=keeps).result()
                assert response.status == 200
                assert new.encode() in response.body
    stage.wait_all_served()


def test_outdated_port_mirror_refuses_all_requests(stage: Stage) -> None:
    """The addresses are moved by another control API of the cloud while the agent's own control API is stopped."""
    with _other_control_api(stage.cloud) as elsewhere:
        with _control_api_stopped(stage.cloud):
            if stage.metadata_proxy == "haproxy":
                until(
                    lambda: stage.metric("port_mirror_age_seconds") > MAX_STALENESS_SECONDS,
                    "the port mirror is outdated",
                )
                until(lambda: "port mirror too old" in stage.cloud.log("metadata-agent"), "the agent logs it")
            stage.rotate(elsewhere)
            for keeps in (False, True):
                refused = stage.ask(DOCUMENTS[0], keeps=keeps)
                assert {response.status for response in refused} == {503}
                assert {response.retry_after for response in refused} == {"1"}
        stage.wait_all_served()


def test_request_from_an_unknown_address_is_held_until_the_port_is_known(stage: Stage) -> None:
    with _other_control_api(stage.cloud) as elsewhere:
        new = addresses_from(21)
        with _control_api_stopped(stage.cloud):
            for guest, address in zip(stage.guests, new, strict=True):
                stage.set_addresses(guest, address, elsewhere)
            stage.settle(new)
            held = [(guest, guest.ask(DOCUMENTS[0])) for guest in stage.guests]
        for guest, answer in held:
            response = answer.result()
            stage.check(guest, response)
            assert response.status in (200, 503)  # not 404: the port may exist
    stage.wait_all_served()


def test_agent_that_starts_without_the_control_api_recovers(stage: Stage) -> None:
    cloud = stage.cloud
    before_count = cloud.log("metadata-agent").count("control API connection lost")
    before = cloud.part("metadata-agent")["pid"]
    with _control_api_stopped(cloud):
        os.kill(before, signal.SIGTERM)
        until(lambda: cloud.part("metadata-agent")["pid"] not in (None, before), "the agent is restarted")
        assert {response.status for response in stage.ask(DOCUMENTS[0])} <= {503}
    stage.wait_all_served()
    assert cloud.log("metadata-agent").count("control API connection lost") - before_count <= 1


def test_new_owner_of_a_deleted_ports_address_reads_its_own_data(stage: Stage) -> None:
    gone, heir = stage.guests.pop(), stage.guests[0]
    stage.api.delete("network", f"/v2.0/ports/{gone.port_id}")
    stage.set_addresses(heir, gone.addresses)
    heir.use_addresses(gone.addresses).result()
    stage.cloud.inside(f"qdhcp-{stage.network_id}", "ip", "neigh", "flush", "to", SUBNET)
    if stage.metadata_proxy == "haproxy":
        stage.wait_for_port_changes()

    def is_served() -> bool:
        response = heir.ask(DOCUMENTS[0]).result()
        assert gone.canary.encode() not in response.body
        return response.status == 200 and heir.canary.encode() in response.body

    until(is_served, "the new owner reads its own data")
    gone.close()


@contextmanager
def _control_api_stopped(cloud: Cloud) -> Iterator[None]:
    """Stops the control API between two transactions, so that it holds no lock that the other one needs."""
    pid = cloud.part("control-api")["pid"]
    until(lambda: _is_stopped_between_writes(cloud, pid), "the control API is stopped, and the database is not locked")
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _is_stopped_between_writes(cloud: Cloud, pid: int) -> bool:
    os.kill(pid, signal.SIGSTOP)
    until(lambda: {_state(task) for task in Path(f"/proc/{pid}/task").iterdir()} == {"T"}, "its threads are stopped")
    with closing(sqlite3.connect(cloud.state_dir / "openimds.sqlite", timeout=0, isolation_level=None)) as store:
        try:
            store.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            os.kill(pid, signal.SIGCONT)
            return False
        store.execute("ROLLBACK")
    return True


def _state(task: Path) -> str:
    """The thread's state, see proc_pid_stat(5). Empty if the thread has ended."""
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


@contextmanager
def _other_control_api(cloud: Cloud) -> Iterator[ApiClient]:
    """A second control API on the same database. No agent is connected to it."""
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
