"""Run by stock neutron's Python: neutron's own metadata agent, whose Neutron server is a Neutron REST API.

metadata_agent.py --config-file FILE

The program is neutron's `main`, whole: its configuration, its unix socket, its handler, its lookups, its signature, its
requests to the metadata API. One thing is put in its place: stock agents ask neutron-server over a message broker
(`get_ports` of oslo.messaging). Here the transport is oslo.messaging's own in-memory one (`transport_url = fake:/`), and
its other end, in the same process, answers each `get_ports` by the Neutron REST API's `GET /v2.0/ports` with the same
filters. OS_AUTH_URL, OS_USERNAME, OS_PASSWORD and OS_PROJECT_NAME say where and as whom.
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
    """The server's end of neutron.agent.metadata.agent.MetadataPluginAPI."""

    target = oslo_messaging.Target(version="1.0", namespace=constants.RPC_NAMESPACE_METADATA)

    def __init__(self, network: Adapter) -> None:
        self._network = network

    def get_ports(self, _context: object, filters: Filters) -> Sequence[Mapping[str, Any]]:
        answer = self._network.get("/v2.0/ports", params=list(_query(filters)))
        found: Sequence[Mapping[str, Any]] = answer.json()["ports"]
        return found


def _query(filters: Filters) -> Sequence[tuple[str, str]]:
    """The plugin's filters as the REST API has them: `{"fixed_ips": {"ip_address": ["a"]}}` → `fixed_ips=ip_address=a`."""
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


os.umask(0)  # stock proxies run as the agent's own user; ours, which ask here, do not
agent.UnixDomainMetadataProxy = _Proxy
main()
