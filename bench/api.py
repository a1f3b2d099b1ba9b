"""The metadata API alone: its rate beside HAProxy's, a large store, memory, a burst of boots."""

from __future__ import annotations

import contextlib
import http.client
import statistics
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.ports import free_ports

from bench.burst import GUESTS, PATHS, burst
from bench.load import CONNECTIONS, SECONDS, Load, answering, haproxy, measure
from bench.metadata_store import MetadataApi, cpu_seconds, metadata_api, wrk_script

ROUNDS = 3
MANY = 100_000
WORKING_SET = 1_000
COLD = 300
DOCUMENTS = (
    ("meta_data.json", "/openstack/latest/meta_data.json", "application/json", 0.7),
    ("EC2 leaf", "/latest/meta-data/local-ipv4", "text/plain; charset=UTF-8", 0.8),
)


def measured() -> list[str]:
    """Lines for RESULTS.md."""
    lines = [
        "## Straight at the metadata API",
        "",
        (
            f"One worker, SQLite, signed requests under the agent's headers, {CONNECTIONS} kept-alive connections, one thread "
            f"of wrk, {SECONDS} s a run, medians of {ROUNDS} pairs. Reference: HAProxy answering the same bytes "
            "(`http-request return`), one thread. The CPU columns compare microseconds of processor a request, which a busy "
            "machine disturbs less than rates."
        ),
        "",
        "| what | openimds /s | HAProxy /s | ratio | target | p99 ms | µs CPU openimds | µs CPU HAProxy | CPU ratio | failed |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    with metadata_api(WORKING_SET) as api:
        for document in DOCUMENTS:
            for name, new_ids in (("no request id", False), ("a new request id each", True)):
                lines.append(_rate(api, document, f"{document[0]}, {name}", api.ids[:1], new_ids=new_ids))
    with metadata_api(MANY, with_ports=COLD) as api:
        lines.append(_rate(api, DOCUMENTS[0], "meta_data.json, one of 100,000 instances", api.ids[:1], new_ids=True))
        working_set = api.ids[:WORKING_SET]
        _ask_each(api, working_set)
        lines.append(_rate(api, DOCUMENTS[0], "meta_data.json, 1,000 of 100,000 in turn", working_set, new_ids=True))
        lines += ["", *_cold(api)]
    return [*lines, "", *_memory(), "", *_burst()]


def _rate(
    api: MetadataApi, document: tuple[str, str, str, float], title: str, ids: Sequence[str], *, new_ids: bool
) -> str:
    _, path, content_type, target = document
    script = wrk_script(api.folder / "load.lua", [(path, api.headers(one)) for one in ids], new_ids=new_ids)
    body = api.folder / "body"
    with urllib.request.urlopen(urllib.request.Request(api.url + path, headers=api.headers(ids[0]))) as answer:
        body.write_bytes(answer.read())
    port = free_ports(1)[0]
    with haproxy(answering(f"127.0.0.1:{port}", body, content_type)) as reference_pid:
        pairs = [
            (_timed(api.url, script, api.pid), _timed(f"http://127.0.0.1:{port}", script, reference_pid))
            for _ in range(ROUNDS)
        ]
    return _row(title, target, pairs)


def _timed(url: str, script: Path, pid: int) -> tuple[Load, float]:
    """A load, and the processor time of one request in the measured process, in microseconds."""
    before = cpu_seconds(pid)
    load = measure(url, {}, script=script)
    return load, (cpu_seconds(pid) - before) * 1e6 / max(1.0, load.requests_per_second * SECONDS)


def _row(title: str, target: float, pairs: Sequence[tuple[tuple[Load, float], tuple[Load, float]]]) -> str:
    def median(number: Callable[[tuple[tuple[Load, float], tuple[Load, float]]], float]) -> float:
        return statistics.median(number(pair) for pair in pairs)

    return (
        f"| {title} | {median(lambda pair: pair[0][0].requests_per_second):,.0f} "
        f"| {median(lambda pair: pair[1][0].requests_per_second):,.0f} "
        f"| {median(lambda pair: pair[0][0].requests_per_second / pair[1][0].requests_per_second):.2f} | ≥ {target} "
        f"| {median(lambda pair: pair[0][0].p99_ms):.1f} "
        f"| {median(lambda pair: pair[0][1]):.1f} | {median(lambda pair: pair[1][1]):.1f} "
        f"| {median(lambda pair: pair[1][1] / pair[0][1]):.2f} | {sum(pair[0][0].failed for pair in pairs)} |"
    )


def _ask_each(api: MetadataApi, ids: Sequence[str], path: str = DOCUMENTS[0][1]) -> list[float]:
    """Requests the document of each instance, one after the other. Returns the milliseconds of each."""
    took = []
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", api.port, timeout=30)) as connection:
        for one in ids:
            headers = api.headers(one)
            began = time.perf_counter()
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            response.read()
            took.append((time.perf_counter() - began) * 1000)
            if response.status != 200:
                raise RuntimeError(f"instance {one}: {response.status}")
    return took


def _cold(api: MetadataApi) -> list[str]:
    imported, plugged = _ask_each(api, api.ids[-2 * COLD : -COLD]), _ask_each(api, api.ids[-COLD:])
    return [
        (
            f"A cold instance (one of {MANY:,}, nothing of it in memory; target: < 3 ms), median of {COLD}: with a port, two "
            f"subnets and a security group in the store **{statistics.median(plugged):.2f} ms**, slowest "
            f"{max(plugged):.1f} ms; imported, so that its network is part of its row, {statistics.median(imported):.2f} "
            f"ms, slowest {max(imported):.1f} ms."
        )
    ]


def _memory() -> list[str]:
    with metadata_api(3 * WORKING_SET) as api:
        empty = api.rss_mib()
        _ask_each(api, api.ids[:WORKING_SET])
        first = api.rss_mib()
        _ask_each(api, api.ids[WORKING_SET:])
        last = api.rss_mib()
    return [
        (
            f"Memory of a worker (resident): {empty:.0f} MiB with nothing, **{first:.0f} MiB** with 1,000 instances and their "
            f"meta_data.json (target: < 60 MB), {(last - first) / 2:.1f} MiB for 1,000 further ones."
        )
    ]


def _burst() -> list[str]:
    with metadata_api(GUESTS) as api:
        before = cpu_seconds(api.pid)
        seen = burst(api)
        used = cpu_seconds(api.pid) - before
    return [
        (
            f"A burst of {GUESTS:,} guests of {len(PATHS)} requests each at once, nothing in memory, load generator on the same "
            f"machine: {seen.seconds:.1f} s, p50 {seen.p50_ms:.0f} ms, **p99 {seen.p99_ms:.0f} ms**, slowest guest "
            f"{seen.slowest_guest_seconds:.1f} s, {used:.1f} s of processor, answers other than 200: **{seen.failed}** "
            "(target: 0)."
        )
    ]
