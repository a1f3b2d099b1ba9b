"""The metrics pages, and the metrics folders of running and of dead programs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry, Counter

from openimds.http.messages import Request
from openimds.resources.errors import StoreUnavailable
from openimds.runtime.lifecycle import StartupError
from openimds.runtime.metrics import CounterRate, StatusPages, metrics_folder


def test_folder_exists_while_the_program_runs_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    with metrics_folder(tmp_path / "state", "metadata-api") as folder:
        assert folder.parent == tmp_path / "state" / "metrics"
        assert not list(folder.iterdir())
        assert [path.stat().st_mode & 0o777 for path in (folder.parent, folder)] == [0o700, 0o700]
    assert not folder.exists()


def test_folder_of_a_killed_program_is_removed_and_folders_of_running_ones_stay(tmp_path: Path) -> None:
    with metrics_folder(tmp_path, "metadata-agent") as others, metrics_folder(tmp_path, "metadata-api") as first:
        killed = tmp_path / "metrics" / "metadata-api.killed"
        killed.mkdir()
        (killed / "counter_17.db").write_bytes(b"17")
        with metrics_folder(tmp_path, "metadata-api") as second:
            assert set((tmp_path / "metrics").iterdir()) == {others, first, second}


def test_folder_that_cannot_be_created_is_a_startup_error(tmp_path: Path) -> None:
    (tmp_path / "metrics").write_text("a file")
    before = len(list(Path("/proc/self/fd").iterdir()))
    message = r"cannot write their metrics to .*/metrics: file exists; .* state_path"
    with pytest.raises(StartupError, match=message), metrics_folder(tmp_path, "metadata-api"):
        pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def request(target: bytes, method: str = "GET") -> Request:
    return Request(method=method, target=target, headers=())


@pytest.mark.parametrize(
    ("sent", "is_store_unavailable", "status", "text"),
    [
        (request(b"/metrics?x"), False, 200, b"openimds_metadata_requests_total"),
        (request(b"/healthcheck"), False, 200, b"OK"),
        (request(b"/healthcheck", "HEAD"), False, 200, b"OK"),
        (request(b"/healthcheck"), True, 503, b"the store is away"),
        (request(b"/metrics", "POST"), False, 405, b"Only GET"),
        (request(b"/latest"), False, 404, b"/healthcheck"),
    ],
)
def test_status_pages_serve_metrics_and_health(
    sent: Request, is_store_unavailable: bool, status: int, text: bytes
) -> None:
    registry = CollectorRegistry()
    Counter("openimds_metadata_requests", "Requests.", registry=registry)

    def check() -> None:
        if is_store_unavailable:
            raise StoreUnavailable("the store is away")

    response = asyncio.run(StatusPages(registry, check).handle(sent))
    assert response.status == status
    assert text in response.body


def test_counter_rate_is_the_increase_since_the_previous_call(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("openimds.runtime.metrics.time", SimpleNamespace(monotonic=lambda: now[0]))
    counter = Counter("openimds_test_rate", "Requests.", ["status"])
    rate = CounterRate("openimds_test_rate")
    counter.labels("200").inc(30)
    counter.labels("404").inc(10)
    now[0] += 20
    assert rate.per_second() == 2.0
    now[0] += 20
    assert rate.per_second() == 0.0
