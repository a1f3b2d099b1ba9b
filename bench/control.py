"""The control API: the processor time of logins and of created ports, and the writes of others during bulk requests."""

from __future__ import annotations

import json
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from tests.system.api_client import ApiClient, Network
from tests.system.cloud import Cloud

from bench.metadata_store import cpu_seconds
from openimds.control_api.network.resources import MAX_BULK
from openimds.store.passwords import hash_password, verify_password

USERS = 12
PORTS = 200
CLIENTS = 16
BULKS = 20


@dataclass(frozen=True, slots=True)
class _Cost:
    """Milliseconds of one operation: processor time of the control API, and the time until the response."""

    cpu_ms: float
    elapsed_ms: float


def measured(cloud: Cloud) -> list[str]:
    """Lines for RESULTS.md. `cloud` runs and is idle."""
    admin = ApiClient(cloud)
    member, other = admin.member("control-bench"), admin.member("control-other")
    network = member.network("control", "10.64.0.0/16")
    rows = [*_logins(cloud, admin), *_ports(cloud, member, network)]
    waits, took = _waits_during_bulks(member, other, network)
    return [
        "## The control API",
        "",
        (
            "Processor time of the control API's process for one operation, and the time until the response. References in "
            "this process: one bcrypt check of a password, and one SQLite transaction with one inserted row."
        ),
        "",
        "| what | ms CPU | ms until the response | reference, ms CPU | ratio |",
        "| --- | --- | --- | --- | --- |",
        *rows,
        "",
        (
            f"Another project creates networks one after the other while {BULKS} requests create {MAX_BULK['port']} ports "
            f"each: median {statistics.median(waits):.0f} ms, **p99 {_p99(waits):.0f} ms**, slowest {max(waits):.0f} ms of "
            f"{len(waits)} (target: p99 < 1 s). A request of {MAX_BULK['port']} ports took {statistics.median(took):.2f} s, "
            f"slowest {max(took):.2f} s (target for its write lock, which is a part of it: < 1 s)."
        ),
    ]


def _logins(cloud: Cloud, admin: ApiClient) -> list[str]:
    members = [admin.member(f"control-user{number}") for number in range(USERS)]
    hashed = hash_password("pw")
    reference = _own_cpu_ms(lambda: verify_password("pw", hashed), 4)
    firsts = iter(members)
    first = _cost(cloud, lambda: _log_in(cloud, next(firsts)), USERS)
    again = _cost(cloud, lambda: _log_in(cloud, members[0]), 10 * USERS)
    return [
        _row("login, the first with a password", first, reference),
        _row("login, repeated within the time of the verified password", again, reference),
    ]


def _log_in(cloud: Cloud, member: ApiClient) -> None:
    domain = {"name": "Default"}
    user = {"name": member.auth["username"], "domain": domain, "password": member.auth["password"]}
    scope = {"project": {"name": member.auth["project_name"], "domain": domain}}
    body = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}}
    requests.post(
        f"http://127.0.0.1:{cloud.control_port}/v3/auth/tokens", data=json.dumps(body), timeout=30
    ).raise_for_status()


def _create_ports(member: ApiClient, network: Network) -> None:
    """One request for the largest number of ports."""
    bodies = [{"network_id": network.id}] * MAX_BULK["port"]
    member.call("network", "POST", "/v2.0/ports", {"ports": bodies})


def _ports(cloud: Cloud, member: ApiClient, network: Network) -> list[str]:
    reference = _insert_cpu_ms()
    alone = _cost(cloud, lambda: member.port(network), PORTS)
    with ThreadPoolExecutor(CLIENTS) as threads:
        before, began = cpu_seconds(_pid(cloud)), time.monotonic()
        list(threads.map(lambda _: member.port(network), range(PORTS)))
        took = time.monotonic() - began
        many = _Cost((cpu_seconds(_pid(cloud)) - before) * 1000 / PORTS, took * 1000 / PORTS)
    whole = _cost(cloud, lambda: _create_ports(member, network), 3)
    each = _Cost(whole.cpu_ms / MAX_BULK["port"], whole.elapsed_ms / MAX_BULK["port"])
    return [
        _row("port, 1 client", alone, reference),
        _row(f"port, {CLIENTS} clients (time between two responses)", many, reference),
        _row(f"port, in a request of {MAX_BULK['port']}", each, reference),
    ]


def _waits_during_bulks(member: ApiClient, other: ApiClient, network: Network) -> tuple[list[float], list[float]]:
    """Milliseconds of the other project's writes, and seconds of the bulk requests."""
    waits: list[float] = []
    done = threading.Event()

    def write() -> None:
        number = 0
        while not done.is_set():
            began = time.monotonic()
            other.create("network", "/v2.0/networks", network={"name": f"w{number}"})
            waits.append((time.monotonic() - began) * 1000)
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    took = []
    try:
        for _ in range(BULKS):
            began = time.monotonic()
            _create_ports(member, network)
            took.append(time.monotonic() - began)
    finally:
        done.set()
        writer.join()
    return waits, took


def _cost(cloud: Cloud, call: Callable[[], Any], times: int) -> _Cost:
    before, began = cpu_seconds(_pid(cloud)), time.monotonic()
    for _ in range(times):
        call()
    took = time.monotonic() - began
    return _Cost((cpu_seconds(_pid(cloud)) - before) * 1000 / times, took * 1000 / times)


def _pid(cloud: Cloud) -> int:
    return int(cloud.part("control-api")["pid"])


def _own_cpu_ms(call: Callable[[], Any], times: int) -> float:
    before = time.thread_time()
    for _ in range(times):
        call()
    return (time.thread_time() - before) * 1000 / times


def _insert_cpu_ms() -> float:
    with tempfile.TemporaryDirectory(prefix="openimds-bench-") as folder:
        connection = sqlite3.connect(Path(folder) / "reference.sqlite", isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE ports (id INTEGER PRIMARY KEY, name TEXT)")

        def insert() -> None:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("INSERT INTO ports (name) VALUES ('p')")
            connection.execute("COMMIT")

        cost = _own_cpu_ms(insert, 500)
        connection.close()
    return cost


def _row(title: str, cost: _Cost, reference_ms: float) -> str:
    return f"| {title} | {cost.cpu_ms:.1f} | {cost.elapsed_ms:.1f} | {reference_ms:.2f} | {cost.cpu_ms / reference_ms:.2f} |"


def _p99(values: Sequence[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]
