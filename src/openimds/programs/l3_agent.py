"""`openimds l3-agent`: connects the router handler with the kernel, radvd, HAProxy and the control API."""

from __future__ import annotations

from openimds import config as configuration
from openimds.agents.l3.router_handler import L3Adapters, L3Settings, RouterHandler
from openimds.client.control_client import ControlClient
from openimds.client.session import connect
from openimds.config import L3AgentConfig
from openimds.linux.configure.configurator import NetworkConfigurator
from openimds.linux.configure.neighbour_discovery import announce
from openimds.linux.configure.ownership import OwnershipRecord
from openimds.linux.firewall.ruleset_cache import RulesetCache
from openimds.linux.monitor.host_monitor import HostMonitor
from openimds.linux.netns.probe import NamespaceProbe
from openimds.linux.process.daemons import PidFileDaemons
from openimds.linux.process.daemons import run as run_program
from openimds.netconfig.radvd import RadvdSettings
from openimds.netconfig.router_namespace import RouterMetadata
from openimds.programs.proxy_settings import proxy_settings
from openimds.programs.reconcile_agent import AgentSpec, serve
from openimds.runtime.heartbeat import Identity
from openimds.runtime.host_checks import check_ipv6, is_closed_to_others
from openimds.runtime.lifecycle import begin

KINDS = ("network", "subnet", "port", "router", "floatingip")
FOLDERS = ("ra", "ns-metadata-proxy", "external/pids")
"""The folders in the state folder that are watched for changes by other programs."""


def run(config: L3AgentConfig) -> int:
    """Runs until SIGTERM and returns the exit code."""
    begin(config)
    client = ControlClient(
        connect(config.auth, lambda: configuration.load_l3_agent(config.config_files).auth),
        region=config.auth.region_name,
    )
    monitor = HostMonitor()
    ruleset_cache = RulesetCache(config.state_path / "rules")
    kernel = NetworkConfigurator(
        OwnershipRecord(config.state_path / "owned"), config.namespace_prefix, monitor, ruleset_cache
    )
    ruleset_cache.forget_all_but(kernel.namespaces())
    adapters = L3Adapters(
        api=client,
        configurator=kernel,
        daemons=PidFileDaemons(monitor),
        probe=NamespaceProbe(kernel.handles),
        run_program=run_program,
        announce=announce,
    )
    routers = RouterHandler(adapters, settings_of(config))

    def reload() -> None:
        routers.settings = settings_of(configuration.load_l3_agent(config.config_files))

    return serve(
        AgentSpec(
            config=config,
            identity=Identity(binary="openimds-l3-agent", host=config.host, agent_type="L3 agent"),
            counterpart="neutron-l3-agent",
            client=client,
            kinds=KINDS,
            handler=routers,
            interval_seconds=config.resync_interval_seconds,
            reload=reload,
            monitor=monitor,
            folders=[config.state_path / folder for folder in FOLDERS],
        )
    )


def settings_of(config: L3AgentConfig) -> L3Settings:
    return L3Settings(
        namespace_prefix=config.namespace_prefix,
        metadata=RouterMetadata(
            enable_metadata_proxy=config.enable_metadata_proxy,
            metadata_port=config.metadata_port,
            access_mark=config.metadata_access_mark,
        ),
        proxy=proxy_settings(config.proxy, config.state_path),
        has_ipv6=check_ipv6(),
        advertisements=RadvdSettings(
            state_path=config.state_path, user=None if is_closed_to_others(config.state_path) else "radvd"
        ),
    )
