"""A mirror whose control API gets another database, or an older copy of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.waiting import HANG_SECONDS, until

from openimds.client.control_client import ControlClient
from openimds.client.instance_records import InstanceRecordSource
from openimds.client.mirror import CloudMirror, CloudView
from openimds.client.session import connect
from openimds.client.store_guard import StoreGuard, StoreRevision, forget_store
from openimds.client.testing import FakeControl

StartMirror = Callable[[], CloudMirror]


def port(port_id: str) -> dict[str, object]:
    return {
        "id": port_id,
        "network_id": "net-1",
        "project_id": "tenant",
        "mac_address": "fa:16:3e:00:00:05",
        "fixed_ips": [],
        "device_id": "vm-1",
        "device_owner": "compute:nova",
    }


@pytest.fixture
def fake() -> Iterator[FakeControl]:
    with FakeControl() as control:
        yield control


@pytest.fixture
def start_mirror(fake: FakeControl, tmp_path: Path) -> Iterator[StartMirror]:
    """Starts mirrors that record in the same file, as successive processes of one program."""
    with ExitStack() as started:

        def start() -> CloudMirror:
            session = connect(fake.auth)
            started.callback(session.session.close)
            guard = StoreGuard(tmp_path, "openimds-dhcp-agent")
            mirror = CloudMirror(ControlClient(session), ("port",), poll_seconds=0.2, guard=guard)
            mirror.start()
            started.callback(mirror.stop, 5)
            assert mirror.wait_ready(HANG_SECONDS)
            return mirror

        yield start


def accepts(guard: StoreGuard, found: StoreRevision) -> bool:
    return guard.accepts(found, guard.recorded())


def test_objects_of_a_replaced_database_stay_until_the_operator_accepts_it(
    fake: FakeControl, start_mirror: StartMirror, tmp_path: Path
) -> None:
    fake.put("port", port("p1"))
    mirror = start_mirror()
    assert mirror.view().is_trusted
    with capture_logs() as logs:
        fake.replace_store(revision=50)
        until(lambda: not mirror.view().is_trusted)
        assert set(mirror.view().ports) == {"p1"}
        fake.put("port", port("p2"))
        until(lambda: set(mirror.view().ports) == {"p1", "p2"})
        assert not mirror.view().is_trusted
        assert forget_store(tmp_path) == 1
        until(lambda: mirror.view().is_trusted)
    assert set(mirror.view().ports) == {"p2"}
    events = [entry["event"] for entry in logs if entry["event"].startswith("database")]
    assert events == ["database replaced; removals suspended", "database accepted; removals resumed"]


def test_objects_that_a_restored_database_has_lost_stay(
    fake: FakeControl, start_mirror: StartMirror, tmp_path: Path
) -> None:
    before = fake.put("port", port("p1"))
    mirror = start_mirror()
    newest = fake.put("port", port("p2"))
    until(lambda: mirror.view().revision == newest)
    fake.restore_store(before)
    until(lambda: not mirror.view().is_trusted)
    assert set(mirror.view().ports) == {"p1", "p2"}
    fake.delete("port", "p1")
    fake.put("port", port("p3"))
    until(lambda: "p3" in mirror.view().ports)
    assert set(mirror.view().ports) == {"p1", "p2", "p3"}
    forget_store(tmp_path)
    until(lambda: set(mirror.view().ports) == {"p3"})


def test_restarted_program_does_not_trust_an_older_copy(fake: FakeControl, start_mirror: StartMirror) -> None:
    before = fake.put("port", port("p1"))
    fake.put("port", port("p2"))
    start_mirror().stop(5)
    fake.restore_store(before)
    assert not start_mirror().view().is_trusted


def test_restarted_program_trusts_the_same_database(fake: FakeControl, start_mirror: StartMirror) -> None:
    fake.put("port", port("p1"))
    start_mirror().stop(5)
    fake.put("port", port("p2"))
    assert start_mirror().view().is_trusted


def test_pruned_changes_do_not_make_a_database_untrusted(fake: FakeControl, start_mirror: StartMirror) -> None:
    fake.put("port", port("p1"))
    mirror = start_mirror()
    fake.forget_changes()
    fake.put("port", port("p2"))
    until(lambda: "p2" in mirror.view().ports)
    assert mirror.view().is_trusted


def test_control_api_without_store_identity_is_trusted(tmp_path: Path) -> None:
    guard = StoreGuard(tmp_path, "openimds-l3-agent")
    assert accepts(guard, StoreRevision("a", 5))
    assert accepts(guard, StoreRevision("", 1))


def test_original_database_is_trusted_again_after_another_one(tmp_path: Path) -> None:
    guard = StoreGuard(tmp_path, "openimds-l3-agent")
    assert accepts(guard, StoreRevision("a", 5))
    assert not accepts(guard, StoreRevision("b", 9))
    assert accepts(guard, StoreRevision("a", 6))


def test_older_copy_stays_untrusted_when_its_revision_has_grown(tmp_path: Path) -> None:
    guard = StoreGuard(tmp_path, "openimds-l3-agent")
    assert accepts(guard, StoreRevision("a", 5))
    assert not accepts(guard, StoreRevision("a", 4))
    assert not accepts(guard, StoreRevision("a", 9))
    assert not accepts(StoreGuard(tmp_path, "openimds-l3-agent"), StoreRevision("a", 9))


def test_copy_that_has_overtaken_the_recorded_revision_is_untrusted(tmp_path: Path) -> None:
    def snapshot(revision: int, epoch: str, known_epoch: str) -> bool:
        guard = StoreGuard(tmp_path, "openimds-l3-agent")  # of the next process
        return guard.accepts(StoreRevision("a", revision, epoch=epoch), guard.recorded(), known_epoch)

    assert snapshot(5, "one", "")
    assert snapshot(6, "one", "one")
    assert snapshot(9, "two", "one"), "the next process of the control API continues"
    assert not snapshot(12, "three", "two, but another")
    assert not snapshot(13, "three", "three")
    forget_store(tmp_path)
    assert snapshot(14, "three", "")
    assert not snapshot(15, "three", ""), "a copy from before the first epoch"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"store_id": "a"}', '{"store_id": "a", "revision": "x"}'])
def test_program_with_a_corrupt_record_trusts_no_database_until_the_operator_accepts_it(
    tmp_path: Path, content: str
) -> None:
    """An empty file counted as a first start, and the agent deleted the servers that a restored copy had lost."""
    guard = StoreGuard(tmp_path, "openimds-l3-agent")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "openimds-l3-agent.json").write_text(content)
    assert not accepts(guard, StoreRevision("a", 5))
    forget_store(tmp_path)
    assert accepts(guard, StoreRevision("a", 6))
    assert not accepts(guard, StoreRevision("b", 6))


@pytest.mark.parametrize("content", [None, ""])
def test_program_without_a_readable_record_uses_the_one_of_another_program(tmp_path: Path, content: str | None) -> None:
    assert accepts(StoreGuard(tmp_path, "openimds-dhcp-agent"), StoreRevision("a", 9))
    if content is not None:
        (tmp_path / "store" / "openimds-l3-agent.json").write_text(content)
    guard = StoreGuard(tmp_path, "openimds-l3-agent")
    assert not accepts(guard, StoreRevision("b", 12))
    assert not accepts(guard, StoreRevision("a", 8))
    other = StoreGuard(tmp_path, "openimds-compute-agent")
    assert not accepts(other, StoreRevision("a", 12)), "another program has seen the older copy"


def test_record_that_cannot_be_written_is_logged_once(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file in place of the folder")
    guard = StoreGuard(tmp_path, "openimds-l3-agent")
    with capture_logs() as logs:
        assert accepts(guard, StoreRevision("a", 5))
        assert accepts(guard, StoreRevision("a", 6))
    assert [entry["event"] for entry in logs] == ["store revision not recorded"]


def test_revisions_that_arrive_out_of_order_do_not_make_a_database_untrusted(tmp_path: Path) -> None:
    workers = [StoreGuard(tmp_path, "openimds-metadata-agent") for _ in range(2)]
    before = workers[0].recorded()
    assert accepts(workers[1], StoreRevision("a", 9))
    assert workers[0].accepts(StoreRevision("a", 5), before)
    workers[1].record(StoreRevision("a", 8))
    workers[0].record(StoreRevision("a", 6))
    assert accepts(workers[0], StoreRevision("a", 9))


def test_changes_withheld_during_a_suspension_invalidate_all_records_afterwards(
    fake: FakeControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    responses = [("a", 5), ("a", 4), ("a", 4), ("a", 4), ("a", 4)]
    views = [CloudView(), CloudView(is_trusted=False), CloudView()]
    current = views[0]
    source = InstanceRecordSource(connect(fake.auth), view=lambda: current)

    def respond(_call: object) -> bytes:
        store_id, revision = responses.pop(0)
        empty = {"everything": False, "instance_ids": [], "port_ids": [], "network_ids": [], "settings": ""}
        return json.dumps({"store_id": store_id, "revision": revision, **empty}).encode()

    monkeypatch.setattr(source, "_request", respond)
    assert not source.after(None).everything
    assert source.newest() == -1
    assert source.after(5).is_empty
    current = views[1]
    assert source.newest() == -1
    current = views[2]
    assert source.newest() == -1
    assert source.after(4).everything
    assert source.newest() == 4
