"""`make bench`: bring a system up, measure, write bench/RESULTS.md, take it down."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

from tests.system.conftest import unstarted_cloud

from bench import boot, machine, rates

RESULTS = Path(__file__).with_name("RESULTS.md")


def main() -> int:
    cloud = unstarted_cloud()
    try:
        cloud.up()
        lines = [*boot.measured(cloud), "", *rates.measured(cloud)]
    finally:
        cloud.remove()
    text = "\n".join(
        [
            "# Figures",
            "",
            (
                f"Written by `make bench` on {datetime.now(UTC):%Y-%m-%d}. Shared and noisy machine: read the ratios, which are "
                "taken beside a reference in the same run."
            ),
            "",
            *(f"- {line}" for line in machine.description()),
            "",
            *lines,
        ]
    )
    RESULTS.write_text(text + "\n")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
