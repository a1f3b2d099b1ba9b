"""`make bench`: runs the benchmarks and writes bench/RESULTS.md.

`make bench ARGS=api` runs one part; the sections of the others stay.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tests.system.conftest import unstarted_cloud

from bench import api, boot, churn, control, direct, host, machine, storm
from bench.results import with_sections
from bench.sigterm import interrupted_by_sigterm

RESULTS = Path(__file__).with_name("RESULTS.md")
PARTS = ("api", "boot", "control", "direct", "host", "storm")
ON_REQUEST = ("churn",)
"""Parts that only a run that names them has, because they take half an hour."""


def main(parts: Sequence[str]) -> int:
    """Runs `parts`, names in PARTS and ON_REQUEST, or all of PARTS if it is empty."""
    wanted = tuple(parts) or PARTS
    unknown = sorted(set(wanted) - {*PARTS, *ON_REQUEST})
    if unknown:
        print(f"there is no part {', '.join(unknown)}; there are {', '.join((*PARTS, *ON_REQUEST))}", file=sys.stderr)
        return 2
    sections = [api.measured()] if "api" in wanted else []
    if "host" in wanted:
        sections.append(host.measured())
    if "storm" in wanted:
        sections.append(storm.measured())
    if {"boot", "churn", "control", "direct"} & set(wanted):
        sections += _of_a_system(wanted)
    head = [
        "# Figures",
        "",
        (
            "Written by `make bench`. Shared and noisy machine: read the ratios, which are taken beside a reference in the same "
            "run, and microseconds of processor."
        ),
        "",
        *(f"- {line}" for line in machine.description()),
    ]
    before = RESULTS.read_text() if RESULTS.exists() else ""
    RESULTS.write_text(with_sections(before, head, sections, f"{datetime.now(UTC):%Y-%m-%d}"))
    print("\n\n".join("\n".join(section) for section in sections))
    return 0


def _of_a_system(wanted: Sequence[str]) -> list[list[str]]:
    with interrupted_by_sigterm():
        cloud = unstarted_cloud()
        try:
            cloud.up()
            parts = {
                "direct": direct.measured,
                "boot": boot.measured,
                "control": control.measured,
                "churn": churn.measured,
            }
            return [measured(cloud) for name, measured in parts.items() if name in wanted]
        finally:
            cloud.remove()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
