"""From a guest's namespace to the response, in direct mode and in haproxy mode.

The reference is a HAProxy that returns the same bytes from memory (`http-request return`): in the namespace of the
agent's listener (direct mode), or at the end of as many hops (haproxy mode).
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.system.cloud import Cloud
from tests.waiting import until

from bench.load import CONNECTIONS, SECONDS, Load, answering, forwarding, haproxy, measure
from bench.metadata_store import cpu_seconds
from bench.modes import choose

ROUNDS = 3
TARGET = 0.7
HAPROXY_TARGET = 0.75
PORT = 8081
"""The port of the reference; the agent has 80."""
DOCUMENTS = {
    "meta_data.json": ("/openstack/latest/meta_data.json", "application/json"),
    "EC2 leaf": ("/latest/meta-data/local-ipv4", "text/plain; charset=UTF-8"),
}
ADDRESS = "169.254.169.254"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """The instance and the network of the measurement."""

    cloud: Cloud
    server: str
    network: str
    folder: Path

    @property
    def guest(self) -> str:
        return f"{self.cloud.prefix}qvm-{self.server}"

    @property
    def namespace(self) -> str:
        """The namespace of the network, which has the listener."""
        return f"{self.cloud.prefix}qdhcp-{self.network}"


@dataclass(frozen=True, slots=True)
class _Timed:
    load: Load
    cpu_us: float
    """The processor time of one request in the responding process, in microseconds."""


def measured(cloud: Cloud) -> list[str]:
    """Lines for RESULTS.md. `cloud` runs and is idle."""
    with tempfile.TemporaryDirectory(prefix="openimds-bench-") as folder:
        place = _place(cloud, Path(folder))
        choose(cloud, "direct", networks=1)
        rows = [_row(f"{name}, direct", _direct(place, name), target=f"≥ {TARGET}") for name in DOCUMENTS]
        choose(cloud, "haproxy", networks=1)
        rows += [
            _row(f"{name}, haproxy → agent", _by_hops(place, name), target=f"≥ {HAPROXY_TARGET}") for name in DOCUMENTS
        ]
    return [
        "## From a guest's namespace to the answer",
        "",
        (
            f"{CONNECTIONS} kept-alive connections from inside the guest's namespace, one thread of wrk, {SECONDS} s a run, medians "
            f"of {ROUNDS} pairs. Reference: HAProxy answering the same bytes (`http-request return`), one thread: in the same "
            "namespace for direct; behind another HAProxy in the namespace, as the agent is, for the seeds' arrangement. The CPU columns (of whoever answers: "
            "agent and reference) compare microseconds a request, which a busy machine disturbs less than rates."
        ),
        "",
        "| what | openimds /s | HAProxy /s | ratio | target | p99 ms | µs CPU openimds | µs CPU HAProxy | CPU ratio | failed |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *rows,
    ]


def _place(cloud: Cloud, folder: Path) -> _Place:
    """A booted instance on a network without a router."""
    cloud.line("openstack network create direct")
    cloud.line("openstack subnet create --network direct --subnet-range 10.31.0.0/24 direct-v4")
    choose(cloud, "direct", networks=1)
    server = cloud.line(
        "openstack server create --image guest --flavor m1.tiny --network direct --property role=load --wait direct "
        "-f value -c id"
    ).strip()
    until(lambda: "direct login:" in cloud.console("direct"), "the instance has booted")
    network = cloud.line("openstack network show direct -f value -c id").strip()
    return _Place(cloud=cloud, server=server, network=network, folder=folder)


def _direct(place: _Place, name: str) -> list[tuple[_Timed, _Timed]]:
    path, content_type = DOCUMENTS[name]
    body = _body(place, path)
    agent = place.cloud.part("metadata-agent")["pid"]
    with haproxy(answering(f"{ADDRESS}:{PORT}", body, content_type), place.namespace) as reference:
        return _pairs(place, path, (agent,), (reference,))


def _by_hops(place: _Place, name: str) -> list[tuple[_Timed, _Timed]]:
    """The hops of the reference: HAProxy in the namespace → unix socket → HAProxy that responds, in the agent's place."""
    path, content_type = DOCUMENTS[name]
    body, socket = _body(place, path), place.folder / "hop.sock"
    agent = place.cloud.part("metadata-agent")["pid"]
    with ExitStack() as stack:
        reference = stack.enter_context(haproxy(answering(f"unix@{socket} mode 666", body, content_type)))
        stack.enter_context(haproxy(forwarding("namespace", f"{ADDRESS}:{PORT}", f"unix@{socket}"), place.namespace))
        return _pairs(place, path, (agent,), (reference,))


def _body(place: _Place, path: str) -> Path:
    """A file with the document's bytes. The request is repeated until the new listener is open."""
    asked = ("curl", "-sf", "-m", "9", f"http://{ADDRESS}{path}")
    text = until(lambda: place.cloud.inside(f"qvm-{place.server}", *asked, check=False), "the guest is answered")
    file = place.folder / "body"
    file.write_text(text)
    return file


def _pairs(place: _Place, path: str, ours: Sequence[int], theirs: Sequence[int]) -> list[tuple[_Timed, _Timed]]:
    """Alternates openimds and the reference, so that a drift of the machine affects both."""
    return [
        (
            _timed(place.guest, f"http://{ADDRESS}{path}", ours),
            _timed(place.guest, f"http://{ADDRESS}:{PORT}{path}", theirs),
        )
        for _ in range(ROUNDS)
    ]


def _timed(namespace: str, url: str, pids: Sequence[int]) -> _Timed:
    before = sum(map(cpu_seconds, pids))
    load = measure(url, {}, namespace=namespace)
    used = sum(map(cpu_seconds, pids)) - before
    return _Timed(load, used * 1e6 / max(1.0, load.requests_per_second * SECONDS))


def _row(title: str, pairs: Sequence[tuple[_Timed, _Timed]], target: str) -> str:
    def median(number: Callable[[_Timed, _Timed], float]) -> float:
        return statistics.median(number(ours, reference) for ours, reference in pairs)

    return (
        f"| {title} | {median(lambda a, _: a.load.requests_per_second):,.0f} "
        f"| {median(lambda _, b: b.load.requests_per_second):,.0f} "
        f"| {median(lambda a, b: a.load.requests_per_second / b.load.requests_per_second):.2f} | {target} "
        f"| {median(lambda a, _: a.load.p99_ms):.1f} | {median(lambda a, _: a.cpu_us):.1f} "
        f"| {median(lambda _, b: b.cpu_us):.1f} | {median(lambda a, b: b.cpu_us / a.cpu_us):.2f} "
        f"| {sum(a.load.failed for a, _ in pairs)} |"
    )
