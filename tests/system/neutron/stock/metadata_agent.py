"""Stock neutron's metadata agent with the Neutron REST API in place of its RPC server. Run by stock neutron's Python.

metadata_agent.py --config-file FILE

The program is neutron's `main` with its configuration, unix socket, handler, lookups, signature and requests to the metadata
API. Only the message broker is replaced: stock agents send `get_ports` to neutron-server by oslo.messaging. Here the transport
is the in-memory one of oslo.messaging (`transport_url = fake:/`). A server in the same process forwards `get_ports` to
`GET /v2.0/ports` of the Neutron REST API with the same filters. OS_AUTH_URL, OS_USERNAME, OS_PASSWORD and OS_PROJECT_NAME
hold the URL and the credentials.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import oslo_messaging
from keystoneauth1.adapter import Adapter
from keystoneauth1.identity.v3 import Password
from keystoneauth1.session import Session
from neutron.agent.metadata import agent
from neutron.agent.metadata_agent import main
from neutron_lib import constants, rpc
from neutron_lib.agent import topics

Filters = Mapping[str, Any]


class Plugin:
    """The server side of neutron.agent.metadata.agent.MetadataPluginAPI."""

    target = oslo_messaging.Target(version="1.0", namespace=constants.RPC_NAMESPACE_METADATA)

    def __init__(self, network: Adapter) -> None:
        self._network = network

    def get_ports(self, _context: object, filters: Filters) -> Sequence[Mapping[str, Any]]:
        answer = self._network.get("/v2.0/ports", params=list(_query(filters)))
        found: Sequence[Mapping[str, Any]] = answer.json()["ports"]
        return found


def _query(filters: Filters) -> Sequence[tuple[str, str]]:
    """The filters in the form of the REST API: `{"fixed_ips": {"ip_address": ["a"]}}` → `fixed_ips=ip_address=a`."""
    pairs = [("fixed_ips", f"ip_address={address}") for address in filters.get("fixed_ips", {}).get("ip_address", ())]
    return pairs + [(name, value) for name, values in filters.items() if name != "fixed_ips" for value in values]


def _network() -> Adapter:
    auth = Password(
        auth_url=os.environ["OS_AUTH_URL"],
        username=os.environ["OS_USERNAME"],
        password=os.environ["OS_PASSWORD"],
        project_name=os.environ["OS_PROJECT_NAME"],
        user_domain_id="default",
        project_domain_id="default",
    )
    return Adapter(Session(auth), service_type="network")


class _Proxy(agent.UnixDomainMetadataProxy):  # type: ignore[misc]
    def run(self) -> None:
        server = rpc.get_server(oslo_messaging.Target(topic=topics.PLUGIN, server="q-server"), [Plugin(_network())])
        server.start()
        super().run()


os.umask(0)  # our proxies connect as another user than the agent's, unlike stock proxies
agent.UnixDomainMetadataProxy = _Proxy
main()
