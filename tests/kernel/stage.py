"""The machine that the kernel tests run on, limited to the names that one test may use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.waiting import HANG_SECONDS

from openimds.linux.configure.configurator import NetworkConfigurator
from openimds.linux.configure.ownership import OwnershipRecord
from openimds.linux.errors import ProgramError
from openimds.linux.process.daemons import run

CGROUPS = tuple(Path("/sys/fs/cgroup", controller) for controller in ("", "memory", "pids"))


@dataclass(frozen=True)
class Host:
    """The machine, limited to the names that one test may use."""

    kernel: NetworkConfigurator
    ownership: OwnershipRecord
    prefix: str
    state_path: Path
    tag: str
    """Six random characters for device names."""

    def namespace(self, name: str) -> str:
        return f"{self.prefix}{name}"

    def bridge(self, number: int = 0) -> str:
        return f"brq{self.tag}{number}"

    def tap(self, number: int = 0) -> str:
        return f"tap{self.tag}{number}"


def pings(namespace: str, *arguments: str) -> bool:
    """Sends one ping and returns True if it is answered.

    A test that expects an answer must repeat it: the kernel adds the route of a new address, and lets a new bridge port
    forward, a moment later. Packets before that are lost.
    """
    try:
        run(["ping", "-c", "1", "-W", "1", *arguments], namespace=namespace)
    except ProgramError:
        return False
    return True


def traces() -> set[str]:
    """The namespaces, devices, tables and cgroups on this machine, one per line.

    The commands may wait long while the kernel destroys many namespaces.
    """
    asked = (["ip", "netns", "list"], ["ip", "-o", "link"], ["nft", "list", "tables"])
    found = {line for argv in asked for line in run(argv, timeout_seconds=HANG_SECONDS).splitlines()}
    return found | {str(path) for folder in CGROUPS for path in folder.glob("openimds*")}
