"""Sets `metadata_proxy` of a running cloud's DHCP agent, which serves the metadata of every network."""

from __future__ import annotations

import os
import re
import signal

from tests.system.cloud import Cloud
from tests.waiting import until

MODES = ("direct", "haproxy")
_ENDINGS = {"direct": ("*.json", "*.conf"), "haproxy": ("*.conf", "*.json")}


def choose(cloud: Cloud, mode: str, *, networks: int) -> None:
    """Selects one of MODES by its option and SIGHUP, and waits until all `networks` have it."""
    file = cloud.state_dir / "etc" / "dhcp_agent.ini"
    kept = [line for line in file.read_text().splitlines() if not re.match(r"(metadata_proxy|force_metadata) *=", line)]
    kept.insert(kept.index("[DEFAULT]") + 1, f"metadata_proxy = {mode}\nforce_metadata = True")
    file.write_text("\n".join(kept) + "\n")
    os.kill(cloud.part("dhcp-agent")["pid"], signal.SIGHUP)
    folder = cloud.state_dir / "ns-metadata-proxy"
    ending, other = _ENDINGS[mode]
    until(
        lambda: len(list(folder.glob(ending))) == networks and not list(folder.glob(other)),
        f"{networks} networks have their metadata by {mode}",
    )
