"""The own netlink code (linux/netlink) against pyroute2, in as many namespaces as a host has networks.

    python -m bench.netlink_library [NAMESPACES]

Creates the namespaces, and a virtual environment with pyroute2 in build/pyroute2. Each library is measured in a process
of its own. docs/decisions/netlink.md has the figures. This module uses the standard library only, because the process
with pyroute2 has no other packages.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).parents[1]
VENV = ROOT / "build" / "pyroute2"
PYROUTE2 = "pyroute2==0.9.7"
PREFIX = "bnl-"
DEVICE = "br0"
CHANGED_ADDRESS = "192.0.2.1/32"
PASSES, CHANGES = 5, 50
OBJECTS = 10
"""The objects of each namespace, which every library must return: 2 links, 6 addresses, 2 routes."""

_NAMESPACE = """\
link set lo up
link add {device} type bridge
link set {device} up
addr add 192.168.40.2/24 dev {device}
addr add 169.254.169.254/32 dev {device}
addr add fd00:40::2/64 dev {device} nodad
route add default via 192.168.40.1
route add 10.0.0.0/8 via 192.168.40.1
"""


class Library(Protocol):
    """A way to read and change namespaces by netlink."""

    def open(self, namespace: str) -> Any:
        """Opens whatever stays open between two reads of a namespace."""

    def read(self, handle: Any) -> int:
        """Reads links, addresses and the main tables' routes. Returns their number."""

    def change(self, handle: Any, namespace: str) -> None:
        """Adds CHANGED_ADDRESS to DEVICE and deletes it again."""


def measure(make_library: Callable[[], Library]) -> None:
    """Measures a library in this process, and prints the figures as JSON."""
    names = _namespaces()
    memory = _resident_kib()
    library = make_library()
    handles, open_seconds = _timed(lambda: [(name, library.open(name)) for name in names])
    passes = [_timed(lambda: [library.read(handle) for _, handle in handles]) for _ in range(PASSES)]
    memory = _resident_kib() - memory
    changes = [_timed(lambda at=at: library.change(*reversed(at)))[1] for at in handles[:CHANGES]]
    found = {count for counts, _ in passes for count in counts}
    assert found == {OBJECTS}, f"{found} objects in a namespace"
    figures = {
        "open": open_seconds,
        "first pass": passes[0][1],
        "idle pass": statistics.median(seconds for _, seconds in passes[1:]),
        "change": statistics.median(changes),
        "memory": memory,
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
    }
    print(json.dumps(figures))


def main(namespaces: int) -> int:
    interpreters = {"own": sys.executable, "own, uncached": sys.executable, "pyroute2": str(_install_pyroute2())}
    modules = {"own": ["bench.netlink_own"], "own, uncached": ["bench.netlink_own", "uncached"]}
    try:
        for number in range(namespaces):
            _create(f"{PREFIX}{number}")
        for name, python in interpreters.items():
            argv = [python, "-m", *modules.get(name, ["bench.netlink_pyroute2"])]
            done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                print(done.stderr, file=sys.stderr)
                return 1
            print(_row(name, json.loads(done.stdout)))
    finally:
        for name in _namespaces():
            subprocess.run(["ip", "netns", "delete", name], check=False)
    return 0


def _install_pyroute2() -> Path:
    python = VENV / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
        subprocess.run([str(python), "-m", "pip", "--quiet", "install", PYROUTE2], check=True)
    return python


def _namespaces() -> list[str]:
    return [path.name for path in Path("/run/netns").glob(f"{PREFIX}*")]


def _create(name: str) -> None:
    subprocess.run(["ip", "netns", "add", name], check=True)
    subprocess.run(["ip", "-n", name, "-batch", "-"], input=_NAMESPACE.format(device=DEVICE), text=True, check=True)


def _row(name: str, figures: dict[str, Any]) -> str:
    return (
        f"| {name} | {figures['open']:.2f} s | {figures['first pass']:.2f} s | {figures['idle pass']:.2f} s"
        f" | {1000 * figures['change']:.2f} ms | {figures['memory'] / 1024:.0f} MiB | {figures['descriptors']} |"
    )


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """The result, and the seconds of processor that it took: the machine is shared."""
    began = time.process_time()
    result = work()
    return result, time.process_time() - began


def _resident_kib() -> int:
    found = re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))
