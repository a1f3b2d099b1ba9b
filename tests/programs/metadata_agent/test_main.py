"""The process `openimds metadata-agent`: its socket, log, signals and workers."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.programs.metadata_api.metadata_stage import NET, Stage, agent_stage, port
from tests.waiting import HANG_SECONDS, until

from openimds.client.testing import PASSWORD


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with agent_stage(tmp_path) as stage:
        yield stage


def test_moved_address_identifies_its_new_owner(stage: Stage):
    stage.start()
    assert stage.ask() == (200, "vm-1 tenant-of-vm-1")
    stage.control.delete("port", "p1")
    stage.control.put("port", port("p2", "vm-2"))
    until(lambda: stage.ask() == (200, "vm-2 tenant-of-vm-2"))
    assert stage.ask("10.0.0.6")[0] == 404
    until(lambda: stage.events("request answered"))
    line = stage.events("request answered")[0]
    assert (line["request_id"], line["instance_id"], line["network_id"]) == ("req-10.0.0.5", "vm-1", NET)
    assert stage.events("signature accepted")
    until(lambda: stage.control.calls)
    report = stage.control.calls[0]
    assert report.path == "/agents/openimds-metadata-agent/node1"
    assert json.loads(report.body)["agent_type"] == "Metadata agent"
    assert stat.S_IMODE(stage.socket.stat().st_mode) == 0o644
    assert stage.stop() == 0
    assert "shared" not in stage.log.replace("shared_secret", "").replace("shared secret", "")
    assert PASSWORD not in stage.log


def test_agent_serves_and_starts_without_the_control_api(stage: Stage):
    stage.start()
    stage.control.fail_with(503)
    assert stage.ask() == (200, "vm-1 tenant-of-vm-1")
    assert stage.ask("10.0.0.6")[0] == 503
    stage.control.fail_with(None)
    until(lambda: stage.ask("10.0.0.6")[0] == 404)
    assert len(stage.events("control API connection lost")) <= 1


def test_log_of_the_namespace_proxies_is_in_the_log_of_the_agent(stage: Stage):
    stage.start()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as haproxy:
        haproxy.sendto(
            b'{"request_id": "req-7", "status": 200, "source": "10.0.0.5"}', str(stage.folder / "haproxy_log")
        )
    until(lambda: stage.events("namespace proxy: request"))
    assert stage.events("namespace proxy: request")[0]["request_id"] == "req-7"


def test_different_secrets_are_logged_at_the_start_and_reloaded_by_sighup(stage: Stage):
    """The secrets are SECRET_KEY and SECRETE_KEY, as in the files of the seeds."""
    stage.api.secret = "SECRET_KEY"
    stage.configure("SECRETE_KEY")
    stage.start()
    until(lambda: stage.events("signature refused"))
    assert stage.ask()[0] == 403
    stage.configure("SECRET_KEY")
    assert stage.process
    stage.process.send_signal(signal.SIGHUP)
    until(lambda: stage.events("configuration reloaded"))
    assert stage.ask()[0] == 200
    assert "SECRETE_KEY" not in stage.log


def test_second_agent_on_the_same_socket_is_a_startup_error(stage: Stage):
    stage.start()
    second = subprocess.run(stage.command(), capture_output=True, text=True, timeout=HANG_SECONDS, check=False)
    assert second.returncode != 0
    assert f"another process listens on {stage.socket}" in second.stderr
    assert stage.ask()[0] == 200


def test_restarted_agent_replaces_the_socket_of_a_killed_one(stage: Stage):
    stage.start()
    assert stage.process
    stage.process.kill()
    stage.process.wait()
    (stage.folder / "log").write_text("")
    stage.start()
    assert stage.ask()[0] == 200
    assert stage.stop() == 0


def test_workers_share_the_socket_and_a_dead_one_is_replaced(stage: Stage):
    stage.configure("shared", "metadata_workers = 2")
    stage.start()
    assert stage.process
    until(lambda: len(children(stage.process.pid)) == 2)  # type: ignore[union-attr]
    assert {stage.ask()[0] for _ in range(10)} == {200}
    before = children(stage.process.pid)
    os.kill(min(before), signal.SIGKILL)
    until(lambda: len(children(stage.process.pid) - before) == 1)  # type: ignore[union-attr]
    until(lambda: stage.ask()[0] == 200)
    assert stage.events("worker process died")
    assert stage.stop() == 0


def test_metrics_of_all_workers_are_summed(stage: Stage):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    stage.configure("shared", f"metadata_workers = 2\n[metrics]\nport = {port}")
    stage.start()
    assert {stage.ask()[0] for _ in range(10)} == {200}

    def counted_requests() -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=HANG_SECONDS) as page:
            lines = page.read().decode().splitlines()
        return sum(
            float(line.split()[-1]) for line in lines if line.startswith("openimds_metadata_agent_requests_total")
        )

    until(lambda: counted_requests() == 10)


def test_workers_end_with_a_killed_parent(stage: Stage):
    stage.configure("shared", "metadata_workers = 2")
    stage.start()
    assert stage.process
    workers = children(stage.process.pid)
    stage.process.kill()
    stage.process.wait()
    until(lambda: not [pid for pid in workers if Path(f"/proc/{pid}").exists()])
    (stale,) = (stage.folder / "metrics").iterdir()
    stage.start()
    until(lambda: [folder for folder in (stage.folder / "metrics").iterdir() if folder != stale] and not stale.exists())
    until(lambda: len(stage.events("ready")) == 2, lambda: stage.log)
    stage.process.terminate()
    assert stage.process.wait(HANG_SECONDS) == 0
    assert not list((stage.folder / "metrics").iterdir())


def test_unknown_proxy_user_is_a_startup_error(stage: Stage):
    stage.configure("shared", "metadata_proxy_user = unknown-user")
    failed = subprocess.run(stage.command(), capture_output=True, text=True, timeout=HANG_SECONDS, check=False)
    assert failed.returncode != 0
    assert "metadata_proxy_user: there is no user 'unknown-user'" in failed.stderr


def children(pid: int) -> set[int]:
    """The worker processes, without the helper process of multiprocessing."""
    pids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(child) for child in pids if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()}
