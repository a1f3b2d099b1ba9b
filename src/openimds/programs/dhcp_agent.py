"""`openimds dhcp-agent`: connects the DHCP network handler with the kernel, dnsmasq and the control API."""

from __future__ import annotations

import contextlib
import pwd

from openimds import config as configuration
from openimds.agents.dhcp.network_handler import DhcpAdapters, DhcpNetworkHandler, DhcpSettings
from openimds.client.control_client import ControlClient
from openimds.client.session import connect
from openimds.config import DhcpAgentConfig
from openimds.linux.configure.configurator import NetworkConfigurator
from openimds.linux.configure.ownership import OwnershipRecord
from openimds.linux.monitor.host_monitor import HostMonitor
from openimds.linux.netns.probe import NamespaceProbe
from openimds.linux.process.daemons import PidFileDaemons
from openimds.linux.process.daemons import run as run_program
from openimds.netconfig.dhcp_network import MetadataOptions
from openimds.netconfig.dnsmasq_command import DnsmasqSettings
from openimds.programs.proxy_settings import proxy_settings
from openimds.programs.reconcile_agent import AgentSpec, serve
from openimds.runtime.heartbeat import Identity
from openimds.runtime.host_checks import check_ipv6, close_to_others, is_closed_to_others
from openimds.runtime.lifecycle import begin

DNSMASQ_USERS = ("dnsmasq", "nobody")
KINDS = ("network", "subnet", "port")
FOLDERS = ("dhcp", "ns-metadata-proxy", "external/pids")
"""The folders in the state folder that are watched for changes by other programs."""


def run(config: DhcpAgentConfig) -> int:
    """Runs until SIGTERM and returns the exit code."""
    begin(config)
    (config.state_path / "dhcp").mkdir(parents=True, exist_ok=True)
    close_to_others(config.state_path)
    client = ControlClient(
        connect(config.auth, lambda: configuration.load_dhcp_agent(config.config_files).auth),
        region=config.auth.region_name,
    )
    monitor = HostMonitor()
    kernel = NetworkConfigurator(OwnershipRecord(config.state_path / "owned"), config.namespace_prefix, monitor)
    namespaces = NamespaceProbe(kernel.handles)
    adapters = DhcpAdapters(
        api=client, configurator=kernel, daemons=PidFileDaemons(monitor), probe=namespaces, run_program=run_program
    )
    networks = DhcpNetworkHandler(adapters, settings_of(config))

    def reload() -> None:
        networks.settings = settings_of(configuration.load_dhcp_agent(config.config_files))

    return serve(
        AgentSpec(
            config=config,
            identity=Identity(binary="openimds-dhcp-agent", host=config.host, agent_type="DHCP agent"),
            counterpart="neutron-dhcp-agent",
            client=client,
            kinds=KINDS,
            handler=networks,
            interval_seconds=config.resync_interval_seconds,
            reload=reload,
            monitor=monitor,
            folders=[config.state_path / folder for folder in FOLDERS],
        )
    )


def _dnsmasq_user(config: DhcpAgentConfig) -> pwd.struct_passwd:
    """The user that dnsmasq switches to: that of Debian's package, or dnsmasq's default."""
    names = ("root",) if is_closed_to_others(config.state_path) else DNSMASQ_USERS
    for name in names:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    return pwd.getpwuid(0)


def settings_of(config: DhcpAgentConfig) -> DhcpSettings:
    user = _dnsmasq_user(config)
    return DhcpSettings(
        host=config.host,
        state_path=config.state_path,
        namespace_prefix=config.namespace_prefix,
        metadata=MetadataOptions(
            force_metadata=config.force_metadata,
            enable_isolated_metadata=config.enable_isolated_metadata,
            enable_metadata_network=config.enable_metadata_network,
        ),
        dnsmasq=DnsmasqSettings(
            dns_domain=config.dns_domain,
            lease_seconds=config.dhcp_lease_seconds,
            lease_max=config.dnsmasq_lease_max,
            dns_forwarders=config.dnsmasq_dns_servers,
            broadcast_reply=config.dhcp_broadcast_reply,
            use_host_resolvers=config.dnsmasq_local_resolv,
            extra_config_file=config.dnsmasq_config_file,
            user=user.pw_name,
            user_id=user.pw_uid,
        ),
        proxy=proxy_settings(config.proxy, config.state_path),
        has_ipv6=check_ipv6(),
    )
