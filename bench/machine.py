"""The machine of the measurement."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path


def description() -> list[str]:
    """Lines for RESULTS.md: processor, memory, kernel, and the versions of the programs in the path."""
    cpu = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    return [
        f"processor: {cpu.group(1) if cpu else 'unknown'}, {os.cpu_count()} cores",
        f"memory: {int(memory.group(1)) // 1024 // 1024 if memory else 0} GiB",
        f"kernel: {platform.release()}; Python {platform.python_version()}",
        _first_line(["haproxy", "-v"]),
        _first_line(["dnsmasq", "--version"]),
    ]


def _first_line(argv: list[str]) -> str:
    result = subprocess.run(argv, capture_output=True, text=True, check=False)
    return result.stdout.splitlines()[0] if result.stdout else f"{argv[0]}: no version"
