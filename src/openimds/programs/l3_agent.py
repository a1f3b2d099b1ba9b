"""`openimds l3-agent`: joins the L3 agent's rules and loops with the kernel, the programs and the control API."""

from __future__ import annotations

from openimds import config as configuration
from openimds.agents.l3 import Edges, L3Settings, Routers
from openimds.client.control_client import ControlClient
from openimds.client.session import connect
from openimds.config import L3AgentConfig
from openimds.linux.configure.configurator import Kernel
from openimds.linux.configure.gratuitous_arp import announce
from openimds.linux.configure.ownership import Ledger
from openimds.linux.firewall.ruleset_cache import KnownRules
from openimds.linux.monitor.host_monitor import HostEvents
from openimds.linux.netns.probe import Insides
from openimds.linux.process.daemons import Daemons
from openimds.linux.process.daemons import run as run_program
from openimds.netconfig.radvd import RadvdSettings
from openimds.netconfig.router_view import RouterMetadata
from openimds.programs.proxy_settings import proxy_settings
from openimds.programs.reconcile_agent import Agent, serve
from openimds.runtime.heartbeat import Identity
from openimds.runtime.host_checks import is_closed_to_others, told_whether_ipv6
from openimds.runtime.lifecycle import begin

KINDS = ("network", "subnet", "port", "router", "floatingip")
FOLDERS = ("ra", "ns-metadata-proxy", "external/pids")
"""Below the state folder: where an edit by somebody else is heard of."""


def run(config: L3AgentConfig) -> int:
    """Until SIGTERM. The exit code."""
    begin(config)
    client = ControlClient(connect(config.auth), region=config.auth.region_name)
    events = HostEvents()
    known_rules = KnownRules(config.state_path / "rules")
    kernel = Kernel(Ledger(config.state_path / "owned"), config.namespace_prefix, events, known_rules)
    known_rules.forget_all_but(kernel.namespaces())
    edges = Edges(
        api=client,
        kernel=kernel,
        programs=Daemons(events),
        namespaces=Insides(kernel.windows),
        run=run_program,
        announce=announce,
    )
    routers = Routers(edges, settings_of(config))

    def reload() -> None:
        routers.settings = settings_of(configuration.load_l3_agent(config.config_files))

    return serve(
        Agent(
            config=config,
            identity=Identity(binary="openimds-l3-agent", host=config.host, agent_type="L3 agent"),
            client=client,
            kinds=KINDS,
            trade=routers,
            interval_seconds=config.resync_interval_seconds,
            reload=reload,
            events=events,
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
        has_ipv6=told_whether_ipv6(),
        advertisements=RadvdSettings(
            state_path=config.state_path, user=None if is_closed_to_others(config.state_path) else "radvd"
        ),
    )
