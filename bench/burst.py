"""Guests that boot at the same time. Each sends the requests of cloud-init, one after the other on one connection."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import uvloop

from bench.metadata_store import MetadataApi

GUESTS = 1000
SECONDS = 120
PATHS = (
    "/openstack",
    "/openstack",
    "/openstack/2018-08-27/meta_data.json",
    "/openstack/2018-08-27/user_data",
    "/openstack/2018-08-27/vendor_data.json",
    "/openstack/2018-08-27/vendor_data2.json",
    "/openstack/2018-08-27/network_data.json",
    "/openstack/latest/meta_data.json",
    "/2009-04-04/meta-data/instance-id",
    "/2009-04-04/user-data",
    "/2009-04-04/meta-data/",
    "/2009-04-04/meta-data/ami-id",
    "/2009-04-04/meta-data/ami-launch-index",
    "/2009-04-04/meta-data/ami-manifest-path",
    "/2009-04-04/meta-data/block-device-mapping/",
    "/2009-04-04/meta-data/block-device-mapping/ami",
    "/2009-04-04/meta-data/block-device-mapping/root",
    "/2009-04-04/meta-data/hostname",
    "/2009-04-04/meta-data/instance-action",
    "/2009-04-04/meta-data/instance-id",
    "/2009-04-04/meta-data/instance-type",
    "/2009-04-04/meta-data/local-hostname",
    "/2009-04-04/meta-data/local-ipv4",
    "/2009-04-04/meta-data/placement/availability-zone",
    "/2009-04-04/meta-data/public-hostname",
    "/2009-04-04/meta-data/public-ipv4",
    "/2009-04-04/meta-data/reservation-id",
    "/2009-04-04/meta-data/security-groups",
)


@dataclass(frozen=True, slots=True)
class Burst:
    """The result of all guests together."""

    seconds: float
    p50_ms: float
    p99_ms: float
    slowest_guest_seconds: float
    failed: int
    """Responses other than 200, and requests without a response."""


def burst(api: MetadataApi) -> Burst:
    """The first GUESTS instances of the store, none of them cached."""
    return uvloop.run(_burst(api))


async def _burst(api: MetadataApi) -> Burst:
    took: list[float] = []
    started = time.perf_counter()
    async with asyncio.timeout(SECONDS):
        guests = await asyncio.gather(*(_guest(api, one, took) for one in api.ids[:GUESTS]))
    seconds = time.perf_counter() - started
    took.sort()
    return Burst(
        seconds=seconds,
        p50_ms=took[len(took) // 2] * 1000,
        p99_ms=took[len(took) * 99 // 100] * 1000,
        slowest_guest_seconds=max(guests),
        failed=GUESTS * len(PATHS) - len(took),
    )


async def _guest(api: MetadataApi, instance_id: str, took: list[float]) -> float:
    """`took` has only responses with status 200."""
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    lines = "".join(f"{name}: {text}\r\n" for name, text in api.headers(instance_id).items())
    for number, path in enumerate(PATHS):
        asked = time.perf_counter()
        request_id = f"req-{instance_id[-8:]}-0000-4000-8000-{number:012x}"
        writer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\n{lines}X-Openstack-Request-Id: {request_id}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        if head.startswith(b"HTTP/1.1 200 ") and request_id.encode() in head:
            took.append(time.perf_counter() - asked)
    writer.close()
    return time.perf_counter() - began
