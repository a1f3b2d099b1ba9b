"""Requests a second: straight at the metadata API, and from an instance through the whole chain.

The reference is HAProxy answering the same bytes from memory, through the same hops.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.ports import free_ports
from tests.system.cloud import Cloud
from tests.waiting import until

from bench.load import CONNECTIONS, SECONDS, Load, answering, forwarding, haproxy, measure, ratio_line

ROUNDS = 3
META_DATA = "/openstack/latest/meta_data.json"
LEAF = "/latest/meta-data/local-ipv4"
PAGES = {"meta_data.json": (META_DATA, "application/json"), "an EC2 leaf": (LEAF, "text/plain; charset=UTF-8")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One document that is asked for, and the file that holds its bytes for the reference."""

    name: str
    path: str
    content_type: str
    body: Path


def measured(cloud: Cloud) -> list[str]:
    """Lines for RESULTS.md."""
    server, network = _loaded_instance(cloud)
    rows = []
    with tempfile.TemporaryDirectory(prefix="openimds-bench-") as folder:
        for name, (path, content_type) in PAGES.items():
            page = Page(name=name, path=path, content_type=content_type, body=Path(folder) / "body")
            page.body.write_text(cloud.inside(f"qvm-{server}", "curl", "-sf", f"http://169.254.169.254{path}"))
            rows += [_straight(cloud, server, page), _through_the_chain(cloud, server, network, page)]
    return [
        "## Requests a second",
        "",
        (
            f"{CONNECTIONS} kept-alive connections, one thread of wrk, {SECONDS} s a run, medians of {ROUNDS} pairs. "
            "Reference: HAProxy answering the same bytes from memory (`http-request return`), one thread a process, through the "
            "same hops. These are a baseline: no target is set yet."
        ),
        "",
        "| what | openimds | reference | ratio | p50 / p99 ms | reference's p50 / p99 ms | failed |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *rows,
    ]


def _loaded_instance(cloud: Cloud) -> tuple[str, str]:
    """An instance that is served from its DHCP namespace; its id and its network's."""
    ini = cloud.state_dir / "etc" / "dhcp_agent.ini"
    text = re.sub(r"(?m)^force_metadata.*\n", "", ini.read_text())
    ini.write_text(text.replace("[DEFAULT]\n", "[DEFAULT]\nforce_metadata = True\n", 1))
    cloud.openimds("restart", "dhcp-agent")
    cloud.line("openstack network create load")
    cloud.line("openstack subnet create --network load --subnet-range 10.30.0.0/24 load-v4")
    server = cloud.line(
        "openstack server create --image guest --flavor m1.tiny --network load --property role=load "
        "--wait load -f value -c id"
    ).strip()
    until(lambda: "load login:" in cloud.console("load"), "the instance has booted")
    return server, cloud.line("openstack network show load -f value -c id").strip()


def _straight(cloud: Cloud, server: str, page: Page) -> str:
    port = free_ports(1)[0]
    headers = _signed(cloud, server)
    with haproxy(answering(f"127.0.0.1:{port}", page.body, page.content_type)):
        pairs = _in_turn(
            lambda: measure(f"http://127.0.0.1:{cloud.metadata_port}{page.path}", headers),
            lambda: measure(f"http://127.0.0.1:{port}{page.path}", headers),
        )
    return ratio_line(f"{page.name}, straight at the metadata API", *pairs)


def _through_the_chain(cloud: Cloud, server: str, network: str, page: Page) -> str:
    """The reference's hops: HAProxy in the namespace → unix socket → HAProxy → TCP → HAProxy that answers."""
    port = free_ports(1)[0]
    guest, proxy = f"{cloud.prefix}qvm-{server}", f"{cloud.prefix}qdhcp-{network}"
    socket = page.body.with_name("hop.sock")
    back = answering(f"127.0.0.1:{port}", page.body, page.content_type)
    middle = forwarding("agent", f"unix@{socket} mode 666", f"127.0.0.1:{port}")
    front = forwarding("namespace", "169.254.169.254:8081", f"unix@{socket}")
    with haproxy(back), haproxy(middle), haproxy(front, proxy):
        pairs = _in_turn(
            lambda: measure(f"http://169.254.169.254{page.path}", {}, namespace=guest),
            lambda: measure(f"http://169.254.169.254:8081{page.path}", {}, namespace=guest),
        )
    return ratio_line(f"{page.name}, from the instance through the whole chain", *pairs)


def _in_turn(ours: Callable[[], Load], reference: Callable[[], Load]) -> tuple[list[Load], list[Load]]:
    """Ours, the reference, ours, …: so that a drift of the machine touches both alike."""
    rounds = [(ours(), reference()) for _ in range(ROUNDS)]
    return [pair[0] for pair in rounds], [pair[1] for pair in rounds]


def _signed(cloud: Cloud, server: str) -> dict[str, str]:
    text = (cloud.state_dir / "etc" / "nova.conf").read_text()
    found = re.search(r"(?m)^metadata_proxy_shared_secret = (\S+)", text)
    if found is None:
        raise RuntimeError("nova.conf has no metadata_proxy_shared_secret")
    project = cloud.line("openstack server show load -f value -c project_id").strip()
    signature = hmac.new(found.group(1).encode(), server.encode(), hashlib.sha256).hexdigest()
    return {"X-Instance-ID": server, "X-Tenant-ID": project, "X-Instance-ID-Signature": signature}
