"""Snapshots, changes and reports, as agents use them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from datetime import timedelta
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from tests.unit.control_api.network.conftest import URL
from tests.waiting import HANG_SECONDS, until_async

from openimds.control_api.watch.long_poll import ChangeNotifier
from openimds.store.engine import Store, utc_now
from openimds.store.models.compute import Server, ServerConsole
from openimds.store.models.network import Network

ROOT = "/openimds/v1"
ALL = "network,subnet,port,router,floatingip,server"
WRITE = """
import sys, uuid
from openimds.store.models.network import Network
from openimds.store.engine import Store, utc_now
from openimds.control_api.watch.long_poll import ChangeNotifier
store = Store(sys.argv[1])
with store.write() as session:
    session.add(Network(id=str(uuid.uuid4()), project_id="p", name="other", created_at=utc_now(), updated_at=utc_now()))
print("committed", flush=True)
"""


def get(person: Any, path: str, status: int = 200) -> Any:
    answer = person.call("GET", f"{ROOT}{path}")
    assert answer.status_code == status, answer.text
    return answer.json()


def tell(person: Any, method: str, path: str, body: Any = None, status: int = 204) -> Any:
    answer = person.call(method, f"{ROOT}{path}", body)
    assert answer.status_code == status, answer.text
    return answer.json() if answer.content else None


def add_server(store: Store, server_id: str = "11111111-1111-4111-8111-111111111111") -> str:
    with store.write() as session:
        session.add(
            Server(
                id=server_id,
                project_id="p",
                user_id="u",
                name="vm1",
                hostname="vm1",
                flavor={},
                host="node1",
                created_at=utc_now(),
                updated_at=utc_now(),
            )
        )
    return server_id


def test_only_agents_and_operators_can_use_the_watch(member: Any, operator: Any, agent: Any) -> None:
    assert member.call("GET", f"{ROOT}/snapshot?kinds=port").status_code == 403
    assert member.call("PUT", f"{ROOT}/agents/b/h", {}).status_code == 403
    assert get(operator, "/snapshot?kinds=port") == get(agent, "/snapshot?kinds=port")


def test_changes_follow_the_snapshot(member: Any, agent: Any) -> None:
    network = member.make("network", name="n")
    snapshot = get(agent, f"/snapshot?kinds={ALL}")
    assert snapshot["revision"] == 1
    assert [n["id"] for n in snapshot["objects"]["network"]] == [network["id"]]
    assert snapshot["objects"]["port"] == []
    subnet = member.make("subnet", network_id=network["id"], cidr="10.0.0.0/24")
    port = member.make("port", network_id=network["id"])
    member.delete(f"/ports/{port['id']}")
    answer = get(agent, f"/changes?after=1&kinds={ALL}&timeout=0")
    assert answer["revision"] == 4
    changes = {(c["kind"], c["id"]): c for c in answer["changes"]}
    assert [c["revision"] for c in answer["changes"]] == sorted(c["revision"] for c in answer["changes"])
    assert changes["subnet", subnet["id"]]["object"]["cidr"] == "10.0.0.0/24"
    assert changes["network", network["id"]]["object"]["subnets"] == [subnet["id"]]
    assert changes["port", port["id"]]["object"] is None
    nothing = {"revision": 4, "epoch": answer["epoch"], "changes": []}
    assert get(agent, "/changes?after=4&kinds=port&timeout=0") == nothing


@pytest.mark.parametrize(
    ("path", "status", "named"),
    [
        ("/snapshot?kinds=colour", 400, "kinds"),
        ("/snapshot?kinds=", 400, "kinds"),
        ("/snapshot", 400, "kinds"),
        ("/changes?kinds=port", 400, "after"),
        ("/changes?kinds=port&after=-1", 400, "after"),
        ("/changes?kinds=port&after=x", 400, "after"),
        ("/changes?kinds=port&after=0&timeout=61", 400, "timeout"),
        ("/changes?kinds=port&after=99&timeout=0", 410, "list again"),
    ],
)
def test_invalid_requests_are_rejected(agent: Any, path: str, status: int, named: str) -> None:
    assert named in get(agent, path, status)["error"]["message"]


def test_pruned_revision_is_410(member: Any, agent: Any, store: Store) -> None:
    for _ in range(3):
        member.make("network")
    store.prune_changes(timedelta(0), utc_now() + timedelta(seconds=1))
    assert "list again" in get(agent, "/changes?after=2&kinds=network&timeout=0", 410)["error"]["message"]
    assert get(agent, "/changes?after=3&kinds=network&timeout=0")["changes"] == []


class TestReports:
    def test_reports_make_a_port_active_and_down(self, member: Any, agent: Any) -> None:
        network = member.make("network")
        member.make("subnet", network_id=network["id"], cidr="10.0.0.0/24")
        bound = {"binding:host_id": "node1", "device_owner": "compute:nova", "device_id": "vm"}
        port = agent.make("port", network_id=network["id"], **bound)
        path = f"/ports/{port['id']}"
        for entity, status in (("l2", "DOWN"), ("dhcp", "ACTIVE"), ("dhcp", "ACTIVE")):
            tell(agent, "POST", f"{path}/provisioned", {"entity": entity})
            assert agent.get(path)["port"]["status"] == status
        tell(agent, "POST", f"{path}/unplugged")
        assert agent.get(path)["port"]["status"] == "DOWN"
        tell(agent, "POST", f"{path}/provisioned", {"entity": "colour"}, 400)
        tell(agent, "POST", "/ports/gone/provisioned", {"entity": "l2"}, 404)
        tell(agent, "POST", "/ports/gone/unplugged")

    def test_repeated_report_creates_no_revision(self, member: Any, agent: Any, store: Store) -> None:
        network = member.make("network")
        port = agent.make("port", network_id=network["id"], device_owner="network:dhcp", **{"binding:host_id": "n"})
        tell(agent, "POST", f"/ports/{port['id']}/provisioned", {"entity": "l2"})
        before = store.revision()
        tell(agent, "POST", f"/ports/{port['id']}/provisioned", {"entity": "l2"})
        assert store.revision() == before

    def test_server_report_changes_the_status(self, agent: Any, store: Store) -> None:
        server_id = add_server(store)
        assert get(agent, "/snapshot?kinds=server")["objects"]["server"][0]["wanted_power_state"] == "running"
        report = {"boot_generation": 1, "power_state": "running", "fault": None}
        tell(agent, "PUT", f"/servers/{server_id}/report", report)
        assert get(agent, "/snapshot?kinds=server")["objects"]["server"][0]["status"] == "ACTIVE"
        tell(agent, "PUT", f"/servers/{server_id}/report", {**report, "power_state": "flying"}, 400)
        tell(agent, "PUT", "/servers/gone/report", report, 404)

    def test_console_output_is_stored(self, agent: Any, store: Store) -> None:
        server_id = add_server(store)
        before = store.revision()
        for text, kept in ((b"boot\nl\xc3\xb6gin:\x00\xff", "boot\nl\u00f6gin:\ufffd\ufffd"), (b"", "")):
            headers = {"X-Auth-Token": "agent", "Content-Type": "text/plain"}
            path = f"{ROOT}/servers/{server_id}/console"
            answer = agent.http.request("PUT", path, content=text, headers=headers)
            assert answer.status_code == 204, answer.text
            with store.read() as session:
                assert session.get_one(ServerConsole, server_id).output == kept
        answer = agent.http.request("PUT", path, content=b"x" * (256 * 1024 + 1), headers=headers)
        assert answer.status_code == 413
        assert store.revision() == before

    def test_heartbeat_is_stored(self, agent: Any, operator: Any) -> None:
        body = {
            "agent_type": "DHCP agent",
            "started_at": "2026-11-21T10:00:00+02:00",
            "configurations": {"networks": 2},
        }
        for _ in range(2):
            tell(agent, "PUT", "/agents/openimds-dhcp-agent/node1", body)
        agents = operator.get("/agents")["agents"]
        assert [(a["host"], a["alive"], a["started_at"]) for a in agents] == [("node1", True, "2026-11-21 08:00:00")]
        tell(agent, "PUT", "/agents/a/b", {**body, "started_at": "yesterday"}, 400)
        tell(agent, "PUT", "/agents/a/b", {**body, "colour": "red"}, 400)


class TestWaiting:
    """Runs the application and its clients on one event loop, as the program does."""

    def test_poll_without_changes_ends_at_its_timeout(self, app: Any, bell: ChangeNotifier) -> None:
        async def story(client: httpx.AsyncClient) -> None:
            waiting = asyncio.create_task(client.get("/changes?after=0&kinds=port&timeout=0.3"))
            await until_async(lambda: bell._waiters, "it waits")
            assert (await waiting).json() == {"revision": 0, "epoch": "", "changes": []}

        self.tell(app, story)

    def test_commit_wakes_only_polls_of_its_kinds(self, app: Any, bell: ChangeNotifier, store: Store) -> None:
        before = threading.active_count()

        async def story(client: httpx.AsyncClient) -> None:
            concerned = [
                asyncio.create_task(client.get("/changes?after=0&kinds=network&timeout=60")) for _ in range(50)
            ]
            others = [asyncio.create_task(client.get("/changes?after=0&kinds=router&timeout=60")) for _ in range(10)]
            await until_async(lambda: len(bell._waiters) == 60, "all wait")
            # Waiting polls hold no thread and no connection, so an ordinary request is answered meanwhile.
            assert (await client.get("/snapshot?kinds=port")).status_code == 200
            assert threading.active_count() - before < 50
            await asyncio.to_thread(self.add_network, store)
            for answer in await asyncio.gather(*concerned):
                assert [c["kind"] for c in answer.json()["changes"]] == ["network"]
            assert len(bell._waiters) == 10
            assert not any(other.done() for other in others), "who waits for something else waits on"
            bell.close()
            for answer in await asyncio.gather(*others):
                assert (answer.json()["revision"], answer.json()["changes"]) == (1, [])

        self.tell(app, story)

    def test_commit_of_another_process_wakes_polls(self, app: Any, bell: ChangeNotifier, store: Store) -> None:
        async def story(client: httpx.AsyncClient) -> None:
            waiting = asyncio.create_task(client.get("/changes?after=0&kinds=network&timeout=60"))
            await until_async(lambda: bell._waiters, "it waits")
            process = await asyncio.to_thread(
                subprocess.Popen, [sys.executable, "-c", WRITE, str(store.url)], stdout=subprocess.PIPE
            )
            assert process.stdout is not None
            assert await asyncio.to_thread(process.stdout.readline) == b"committed\n"
            answer = await waiting  # the poll ends with the change, not with its timeout, which would return none
            assert answer.json()["changes"][0]["object"]["name"] == "other"
            process.communicate()

        self.tell(app, story)

    def test_resumed_watch_misses_no_change(self, app: Any, store: Store) -> None:
        async def story(client: httpx.AsyncClient) -> None:
            writer = threading.Thread(target=lambda: [self.add_network(store) for _ in range(40)])
            writer.start()
            seen: list[int] = []
            revision = 0
            while len(seen) < 40:
                answer = (await client.get(f"/changes?after={revision}&kinds=network&timeout=60")).json()
                seen += [c["revision"] for c in answer["changes"]]
                revision = answer["revision"]
            assert seen == list(range(1, 41))
            writer.join()

        self.tell(app, story)

    def test_polls_report_an_unavailable_store_and_recover(self, app: Any, bell: ChangeNotifier, store: Store) -> None:
        async def story(client: httpx.AsyncClient) -> None:
            waiting = asyncio.create_task(client.get("/changes?after=0&kinds=network&timeout=60"))
            await until_async(lambda: bell._waiters, "it waits")
            with store.engine.begin() as connection:
                connection.execute(sa.text("ALTER TABLE changes RENAME TO away"))
            bell._wake_all()  # the same response as at the timeout
            assert (await waiting).status_code == 503
            with store.engine.begin() as connection:
                connection.execute(sa.text("ALTER TABLE away RENAME TO changes"))
            again = asyncio.create_task(client.get("/changes?after=0&kinds=network&timeout=60"))
            await asyncio.to_thread(self.add_network, store)
            assert len((await again).json()["changes"]) == 1

        self.tell(app, story)

    @staticmethod
    def add_network(store: Store) -> None:
        with store.write() as session:
            number = session.execute(sa.select(sa.func.count()).select_from(Network)).scalar_one()
            session.add(Network(id=f"n{number}", project_id="p", created_at=utc_now(), updated_at=utc_now()))

    @staticmethod
    def tell(app: Any, story: Any) -> None:
        async def run() -> None:
            transport = httpx.ASGITransport(app)
            headers = {"X-Auth-Token": "agent"}
            async with httpx.AsyncClient(
                transport=transport, base_url=URL + ROOT, headers=headers, timeout=HANG_SECONDS
            ) as client:
                await story(client)

        asyncio.run(run())
