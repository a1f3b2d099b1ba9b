"""The desired state of a server, for the compute agent of its host."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    id: str
    name: str
    project_id: str
    hostname: str
    host: str
    """The compute host it was scheduled to."""
    driver: str = "netns"
    """`netns` or `external`."""
    wanted_power_state: str
    """`running` or `stopped`."""
    boot_generation: int
    """Counts the starts that users requested (create, reboot, start, rebuild). A new number means a new boot."""
    memory_mib: int = 0
    """The flavor's memory. 0 if the control API does not send it."""
    disk_gib: int = 0
    """The flavor's disk. 0 if it has none, or if the control API does not send it."""
    port_ids: tuple[str, ...] = ()
    """In the order of the NICs."""
    status: str = field(default="", compare=False)
    """Nova's status, as the control API shows it. It does not affect the agent's configuration, so comparisons ignore it."""


def instance_namespace(server_id: str, prefix: str = "") -> str:
    """`qvm-<server id>`: the network namespace that the netns driver runs the instance in."""
    return f"{prefix}qvm-{server_id}"
