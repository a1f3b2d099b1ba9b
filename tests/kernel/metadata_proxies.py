"""The proxy in front of the stand-in metadata agent, for both values of `metadata_proxy`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest import mock

import pytest
from tests.kernel.listening import KeptHere, listening
from tests.kernel.metadata_server import Asked, MetadataServer
from tests.waiting import HANG_SECONDS

from openimds.agents import metadata_proxy
from openimds.http.messages import Request, Response

METADATA_PROXIES = ("direct", "haproxy")
DIRECT = METADATA_PROXIES[0]


def in_both(fixture: str) -> pytest.MarkDecorator:
    """Marks a test, or a module, to run with both kinds. Its fixture has the kind as its parameter."""
    return pytest.mark.parametrize(fixture, METADATA_PROXIES, indirect=True)


def chosen(request: pytest.FixtureRequest) -> str:
    """The kind that the fixture's parameter selects. HAProxy for tests without the parameter."""
    return str(getattr(request, "param", "haproxy"))


@contextmanager
def taking_requests(kind: str, server: MetadataServer, folder: Path) -> Iterator[None]:
    """With `direct` this runs the listening part of the metadata agent. HAProxies are started by the agents themselves."""
    if kind != DIRECT:
        yield
        return
    kept = KeptHere()
    try:
        # On a busy machine too, a reconcile pass waits for its listener.
        with (
            mock.patch.object(metadata_proxy, "LISTEN_TIMEOUT_SECONDS", HANG_SECONDS),
            listening(folder, kept) as agent,
        ):
            agent.server.handler = partial(_remembered, server)
            yield
    finally:
        kept.close()


def _remembered(server: MetadataServer, request: Request) -> Response:
    """Writes the listener's data as the headers that a HAProxy would send, so that tests can check both alike.

    A HAProxy does not send the device of a link-local guest, while a listener does: `fe80::1%tap…`.
    """
    kind, _, name = request.listener.partition(":")
    headers = ((f"x-neutron-{kind}-id", name), ("x-forwarded-for", request.peer.partition("%")[0]))
    server.requests.append(Asked(request.method, request.target.decode(), headers))
    return Response(status=200, body=b"hello")
