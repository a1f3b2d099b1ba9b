"""`openimds compute-agent`: connects the server handler with the kernel, the compute driver and the control API."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from openimds import config as configuration
from openimds.agents.compute.console_log import INTERVAL_SECONDS as CONSOLE_SECONDS
from openimds.agents.compute.console_log import ConsoleUploader
from openimds.agents.compute.power_manager import PowerManager
from openimds.agents.compute.protocols import ComputeAdapters
from openimds.agents.compute.server_handler import ComputeSettings, ServerHandler
from openimds.client.control_client import ControlClient
from openimds.client.session import connect
from openimds.config import ComputeAgentConfig
from openimds.linux.configure.configurator import NetworkConfigurator
from openimds.linux.configure.ownership import OwnershipRecord
from openimds.linux.firewall.port_security import PortSecurityTable
from openimds.linux.monitor.host_monitor import HostMonitor
from openimds.linux.netns_driver import disk
from openimds.linux.netns_driver.bubblewrap import GuestSettings
from openimds.linux.netns_driver.cgroups import GuestCgroups
from openimds.linux.netns_driver.disk import DiskSettings
from openimds.linux.netns_driver.driver import NetnsDriver
from openimds.programs.reconcile_agent import AgentSpec, serve
from openimds.runtime.heartbeat import Identity
from openimds.runtime.lifecycle import StartupError, begin

KINDS = ("network", "subnet", "port", "server")
PROGRAMS = {
    "ip": "iproute2",
    "nft": "nftables",
    "bwrap": "bubblewrap",
    "busybox": "busybox",
    "curl": "curl",
    "mkfs.ext4": "e2fsprogs",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
}
"""The Debian package of each program that the agent runs."""
POWER_SECONDS = 0.5
REMOVAL_SECONDS = 1.0

log = structlog.get_logger(__name__)


def run(config: ComputeAgentConfig) -> int:
    """Runs until SIGTERM and returns the exit code. Guests continue to run after it. Raises StartupError."""
    begin(config)
    _check_programs()
    client = ControlClient(
        connect(config.auth, lambda: configuration.load_compute_agent(config.config_files).auth),
        region=config.auth.region_name,
    )
    cgroups = GuestCgroups(config.namespace_prefix)
    notes = missing_limits(cgroups)
    if notes:
        log.warning("guest limits not enforced", reasons=notes)
    guests = NetnsDriver(config.state_path / "instances", guest_settings(config), cgroups)
    monitor = HostMonitor()
    adapters = ComputeAdapters(
        api=client,
        configurator=NetworkConfigurator(
            OwnershipRecord(config.state_path / "owned"), config.namespace_prefix, monitor
        ),
        port_security=PortSecurityTable(config.namespace_prefix, monitor),
        driver=guests,
    )
    power = PowerManager(client, guests, vif_plugging_timeout_seconds=config.vif_plugging_timeout_seconds)
    servers = ServerHandler(adapters, settings_of(config), power)
    consoles = ConsoleUploader(client, guests)

    def reload() -> None:
        fresh = configuration.load_compute_agent(config.config_files)
        guests.settings = guest_settings(fresh)
        power.vif_plugging_timeout_seconds = fresh.vif_plugging_timeout_seconds

    agent = AgentSpec(
        config=config,
        identity=Identity(binary="openimds-compute-agent", host=config.host, agent_type="Compute agent"),
        counterpart="nova-compute with an L2 agent of Neutron",
        client=client,
        kinds=KINDS,
        handler=servers,
        interval_seconds=config.resync_interval_seconds,
        reload=reload,
        monitor=monitor,
        notes=notes,
    )
    failures = _ChangedFailures()
    with (
        repeating("power", POWER_SECONDS, lambda: servers.step_power(failures.log)),
        repeating("consoles", CONSOLE_SECONDS, consoles.upload_changed),
        repeating("removed instances", REMOVAL_SECONDS, guests.delete_removed),
    ):
        return serve(agent)


def settings_of(config: ComputeAgentConfig) -> ComputeSettings:
    return ComputeSettings(host=config.host, namespace_prefix=config.namespace_prefix, owner_uid=config.guest_uid)


def guest_settings(config: ComputeAgentConfig) -> GuestSettings:
    return GuestSettings(
        first_uid=config.guest_uid,
        metadata_tries=config.guest_metadata_tries,
        metadata_delay_seconds=config.guest_metadata_delay_seconds,
        request_timeout_seconds=config.guest_request_timeout_seconds,
        memory_bytes=config.guest_memory_bytes,
        processes=config.guest_processes,
        disk=DiskSettings(
            default_bytes=config.guest_disk_bytes,
            reserved_bytes=config.guest_reserved_disk_bytes,
            preallocate=config.guest_disk_is_preallocated,
        ),
    )


@contextmanager
def repeating(name: str, seconds: float, work: Callable[[], None]) -> Iterator[None]:
    """Calls `work` on a thread every `seconds` while the block runs."""
    stopping = threading.Event()

    def body() -> None:
        while not stopping.wait(seconds):
            try:
                work()
            except Exception:
                log.exception("periodic task failed", task=name)

    thread = threading.Thread(target=body, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join(timeout=5)


class _ChangedFailures:
    """Logs a failure of a server unless it equals the server's last one."""

    def __init__(self) -> None:
        self._logged: dict[str, str] = {}

    def log(self, server_id: str, error: Exception) -> None:
        if self._logged.get(server_id) != str(error):
            self._logged[server_id] = str(error)
            log.warning("server power change failed", server=server_id, error=str(error))


def missing_limits(cgroups: GuestCgroups) -> list[str]:
    """Sentences about the limits that this host cannot enforce."""
    absent = [f"guests have no limit of {name}: this host has no such cgroup controller" for name in cgroups.missing]
    if not disk.has_loop_devices():
        absent.append("the disks of guests have no limit: this host has no loop devices")
    return absent


def _check_programs() -> None:
    missing = {program: package for program, package in PROGRAMS.items() if shutil.which(program) is None}
    if missing:
        packages = " ".join(sorted(set(missing.values())))
        raise StartupError(f"not installed: {', '.join(sorted(missing))}; run `apt-get install {packages}`")
