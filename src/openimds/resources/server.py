"""A server as the compute agent of its host sees it."""

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
    """Counts every start that a person asked for (create, reboot, start, rebuild): a new number is a new boot."""
    port_ids: tuple[str, ...] = ()
    """In the order of the NICs."""
    status: str = field(default="", compare=False)
    """Nova's status, as the control API shows it. It changes nothing that the agent configures, so it does not take part
    in comparisons."""


def instance_namespace(server_id: str, prefix: str = "") -> str:
    """`qvm-<server id>`: the namespace that is the instance's machine under the netns driver."""
    return f"{prefix}qvm-{server_id}"
