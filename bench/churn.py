"""Churn: instances come and go for a long time, and the memory, descriptors and threads of every program are sampled.

`make bench ARGS=churn` takes OPENIMDS_CHURN_SECONDS (default: 1,800). It is not part of a run without arguments.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.system.api_client import ApiClient, Network
from tests.system.cloud import Cloud
from tests.waiting import until

SECONDS = int(os.environ.get("OPENIMDS_CHURN_SECONDS", "1800"))
PICTURE = Path(__file__).with_name("churn.svg")
AT_ONCE = 4
REQUESTS = 60
"""New connections of each instance."""
SAMPLE_SECONDS = 5.0
METADATA = "http://169.254.169.254/openstack/latest/meta_data.json"
COLORS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#17becf")
_WIDTH, _HEIGHT, _MARGIN = 760, 320, 50


@dataclass(slots=True)
class Samples:
    """The samples of one program: (boots until then, MiB, descriptors, threads)."""

    name: str
    rows: list[tuple[int, float, int, int]] = field(default_factory=list)

    def take(self, pid: int, boots: int) -> None:
        """Adds a sample. A process that has just ended has none."""
        with contextlib.suppress(OSError):
            self._take(pid, boots)

    def _take(self, pid: int, boots: int) -> None:
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        resident = int(status["VmRSS"].split()[0]) / 1024
        self.rows.append((boots, resident, descriptors, int(status["Threads"])))

    def slope(self) -> float:
        """KiB for each boot in the second half, as the slope of a line through the samples."""
        later = self.rows[len(self.rows) // 2 :]
        boots, sizes = [row[0] for row in later], [row[1] * 1024 for row in later]
        return statistics.linear_regression(boots, sizes).slope if len(set(boots)) > 1 else 0.0

    def line(self) -> str:
        first, half, last = self.rows[0], self.rows[len(self.rows) // 2], self.rows[-1]
        return (
            f"| {self.name} | {first[1]:.0f} / {half[1]:.0f} / {last[1]:.0f} | {self.slope():.1f} "
            f"| {first[2]} / {half[2]} / {last[2]} | {first[3]} / {half[3]} / {last[3]} |"
        )


def measured(cloud: Cloud) -> list[str]:
    """Lines for RESULTS.md. `cloud` runs and is idle. Also writes the picture."""
    admin = ApiClient(cloud)
    network = admin.network("churn", "10.80.0.0/20")
    admin.router("churn", network)
    began, boots = time.monotonic(), _Boots(cloud, admin, network, time.monotonic() + SECONDS)
    programs: dict[str, Samples] = {}
    boots.start()
    while boots.is_running():
        _sample(cloud, programs, boots.count)
        time.sleep(SAMPLE_SECONDS)
    boots.join()
    _sample(cloud, programs, boots.count)
    took = time.monotonic() - began
    PICTURE.write_text(_picture(list(programs.values())))
    return [
        "## Churn",
        "",
        (
            f"{boots.count} instances of the netns driver in {took:.0f} s, {AT_ONCE} at a time: boot, {REQUESTS} requests on "
            "new connections, deletion; with each a token, a network and a port that are created and deleted. The columns "
            "have the values at the start, at half of the time and at the end; the slope is that of the second half "
            "([picture](churn.svg))."
        ),
        "",
        "| program | resident MiB | KiB a boot | descriptors | threads |",
        "| --- | --- | --- | --- | --- |",
        *(samples.line() for samples in programs.values()),
    ]


class _Boots:
    """The threads that boot and delete instances until the deadline."""

    def __init__(self, cloud: Cloud, admin: ApiClient, network: Network, deadline: float) -> None:
        self.count = 0
        self._cloud, self._admin, self._network, self._deadline = cloud, admin, network, deadline
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(AT_ONCE)]
        self._failures: list[BaseException] = []

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def is_running(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def join(self) -> None:
        """Raises the first error of a thread."""
        for thread in self._threads:
            thread.join()
        if self._failures:
            raise self._failures[0]

    def _run(self, number: int) -> None:
        try:
            turn = 0
            while time.monotonic() < self._deadline and not self._failures:
                self._one(f"churn-{number}-{turn}")
                turn += 1
        except BaseException as error:  # noqa: BLE001 - `join` raises it
            self._failures.append(error)

    def _one(self, name: str) -> None:
        client = ApiClient(self._cloud)  # with a new token
        other = client.create("network", "/v2.0/networks", network={"name": name})
        port = client.port(Network(other["id"], ""))
        server = client.server(name, self._network)
        fetch = f"for i in $(seq {REQUESTS}); do curl -sf -m 20 -o /dev/null {METADATA} || exit 1; done"
        until(lambda: self._cloud.inside(f"qvm-{server}", "curl", "-sf", "-m", "9", METADATA, check=False), name)
        self._cloud.inside(f"qvm-{server}", "sh", "-c", fetch)
        client.delete("compute", f"/servers/{server}")
        client.delete("network", f"/v2.0/ports/{port['id']}")
        client.delete("network", f"/v2.0/networks/{other['id']}")
        self.count += 1


def _sample(cloud: Cloud, programs: dict[str, Samples], boots: int) -> None:
    status = json.loads((cloud.state_dir / "run" / "status.json").read_text())
    for part in status["parts"]:
        programs.setdefault(part["name"], Samples(part["name"])).take(part["pid"], boots)
    programs.setdefault("supervisor", Samples("supervisor")).take(cloud.supervisor_pid(), boots)


def _picture(programs: Sequence[Samples]) -> str:
    """Resident memory over boots, one line for each program."""
    most = max(row[1] for samples in programs for row in samples.rows) * 1.1
    last = max(1, *(samples.rows[-1][0] for samples in programs))
    width, height = _WIDTH - 2 * _MARGIN - 130, _HEIGHT - 2 * _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<path d="M{_MARGIN} {_MARGIN}v{height}h{width}" fill="none" stroke="#555"/>',
        f'<text x="{_MARGIN}" y="{_MARGIN - 12}">resident memory in MiB, at most {most / 1.1:.0f}</text>',
        f'<text x="{_MARGIN + width}" y="{_HEIGHT - _MARGIN + 20}" text-anchor="end">{last} boots</text>',
    ]
    for number, samples in enumerate(programs):
        color = COLORS[number % len(COLORS)]
        points = " ".join(
            f"{_MARGIN + width * boots / last:.1f},{_MARGIN + height * (1 - mib / most):.1f}"
            for boots, mib, _, _ in samples.rows
        )
        parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.5"/>')
        place = _MARGIN + 16 * number
        parts.append(f'<text x="{_MARGIN + width + 14}" y="{place}" fill="{color}">{samples.name}</text>')
    return "\n".join([*parts, "</svg>", ""])
