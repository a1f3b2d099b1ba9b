"""What the kernel tests stand on: this machine, as one test may use it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.waiting import HANG_SECONDS

from openimds.linux.configure.configurator import NetworkConfigurator
from openimds.linux.configure.ownership import OwnershipRecord
from openimds.linux.errors import ProgramError
from openimds.linux.process.daemons import run


@dataclass(frozen=True)
class Host:
    """This machine, as one test may use it."""

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
    """Once. A positive is to be waited for: the kernel makes the route to an address that was just added, and lets a
    device that was just plugged forward, a moment later; what is sent before is lost.
    """
    try:
        run(["ping", "-c", "1", "-W", "1", *arguments], namespace=namespace)
    except ProgramError:
        return False
    return True


def traces() -> set[str]:
    """Everything of ours that could stay behind, a line each. While the kernel takes many namespaces away, it lets these
    wait: longer than an agent would.
    """
    asked = (["ip", "netns", "list"], ["ip", "-o", "link"], ["nft", "list", "tables"])
    return {line for argv in asked for line in run(argv, timeout_seconds=HANG_SECONDS).splitlines()}
