"""The adapters of the metadata agent: connection pool, control API client, kernel."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence

from openimds.agents.metadata.protocols import ControlAwayError, ControlRefusedError, Headers, UpstreamAwayError
from openimds.client.control_client import ControlClient
from openimds.client.errors import ControlApiError, LoginRefusedError
from openimds.config import MetadataAgentConfig
from openimds.guest_identity.addresses import Address
from openimds.http.client.pool import ClientRequest, Pool, ServerAddress, UpstreamError
from openimds.http.messages import Response
from openimds.linux.configure.configurator import NetworkConfigurator
from openimds.linux.netns.netns import NamespaceMissingError
from openimds.resources.network import Port, Subnet, dhcp_namespace, router_namespace
from openimds.runtime.lifecycle import StartupError

ANSWER_SECONDS = 28.0
"""Less than HAProxy's server timeout of 32 s, so that a client gets the agent's 503 instead of HAProxy's 504."""


class PooledUpstream:
    """The metadata API by a connection pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def __str__(self) -> str:
        return str(self._pool.upstream)

    async def request(self, method: str, target: bytes, headers: Headers, body: bytes) -> Response:
        try:
            return await self._pool.request(
                ClientRequest(method=method, target=target, headers=headers, body=body), ANSWER_SECONDS
            )
        except UpstreamError as error:
            raise UpstreamAwayError(str(error)) from None


class NeutronPorts:
    """Lists ports and subnets of Neutron's API with the control API client."""

    def __init__(self, client: ControlClient) -> None:
        self._client = client

    def ports(self, filters: Mapping[str, str | Sequence[str]]) -> Sequence[Port]:
        try:
            found = self._client.list_ports(**filters)
            self._client.warn_if_role_is_missing()
            return found
        except ControlApiError as error:
            raise _away(error) from None

    def subnets(self, filters: Mapping[str, str | Sequence[str]]) -> Sequence[Subnet]:
        try:
            return self._client.list_subnets(**filters)
        except ControlApiError as error:
            raise _away(error) from None


def _away(error: ControlApiError) -> ControlAwayError:
    if isinstance(error, LoginRefusedError):
        return ControlRefusedError(str(error), error.retry_seconds)
    return ControlAwayError(str(error))


class NamespaceNeighbours:
    """The neighbour tables of the `qdhcp-` and `qrouter-` namespaces of this host."""

    def __init__(self, kernel: NetworkConfigurator, namespace_prefix: str) -> None:
        self._kernel = kernel
        self._prefix = namespace_prefix

    def mac_of(self, network_id: str | None, router_id: str | None, address: Address) -> str | None:
        if network_id:
            namespace = dhcp_namespace(network_id, self._prefix)
        else:
            namespace = router_namespace(router_id or "", self._prefix)
        try:
            tables = [self._kernel.neighbours(namespace, device) for device in self._kernel.links(namespace)]
        except (NamespaceMissingError, OSError):
            return None  # the namespace does not exist, or access is denied
        macs = {table[str(address)] for table in tables if str(address) in table}
        return macs.pop() if len(macs) == 1 else None  # ambiguous if two links have different MACs


def upstream_of(config: MetadataAgentConfig) -> ServerAddress:
    """Returns the configured metadata API. Raises StartupError if a certificate cannot be read."""
    tls = _tls(config) if config.nova_metadata_protocol == "https" else None
    return ServerAddress(host=config.nova_metadata_host, port=config.nova_metadata_port, tls=tls)


def _tls(config: MetadataAgentConfig) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=config.auth_ca_cert)
        if config.nova_metadata_insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if config.nova_client_cert and config.nova_client_priv_key:
            context.load_cert_chain(config.nova_client_cert, config.nova_client_priv_key)
    except (OSError, ssl.SSLError) as error:
        raise StartupError(
            "a certificate for the metadata API cannot be read (auth_ca_cert, nova_client_cert, nova_client_priv_key): "
            f"{error}"
        ) from None
    return context
