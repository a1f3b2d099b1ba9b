"""`make bench`: measure, write bench/RESULTS.md, leave nothing behind. `make bench ARGS=api`: only a part."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tests.system.conftest import unstarted_cloud

from bench import api, boot, host, machine, rates

RESULTS = Path(__file__).with_name("RESULTS.md")
PARTS = ("api", "boot", "host", "rates")


def main(parts: Sequence[str]) -> int:
    """`parts`: some of PARTS; all without any."""
    wanted = tuple(parts) or PARTS
    unknown = sorted(set(wanted) - set(PARTS))
    if unknown:
        print(f"there is no part {', '.join(unknown)}; there are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    lines = ["", *api.measured()] if "api" in wanted else []
    if "host" in wanted:
        lines += ["", *host.measured()]
    if {"boot", "rates"} & set(wanted):
        lines += _of_a_system(wanted)
    text = "\n".join(
        [
            "# Figures",
            "",
            (
                f"Written by `make bench` on {datetime.now(UTC):%Y-%m-%d} ({', '.join(wanted)}). Shared and noisy machine: "
                "read the ratios, which are taken beside a reference in the same run."
            ),
            "",
            *(f"- {line}" for line in machine.description()),
            *lines,
        ]
    )
    RESULTS.write_text(text + "\n")
    print(text)
    return 0


def _of_a_system(wanted: Sequence[str]) -> list[str]:
    cloud = unstarted_cloud()
    try:
        cloud.up()
        lines = ["", *boot.measured(cloud)] if "boot" in wanted else []
        return [*lines, "", *rates.measured(cloud)] if "rates" in wanted else lines
    finally:
        cloud.remove()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
