"""The commands of docs/guide/metadata-path.md run as they are written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.kernel.lab import lab_stage
from tests.kernel.stage import Host

from openimds.linux.firewall.notrack import table_name
from openimds.linux.firewall.port_security import PortSecurityTable
from openimds.linux.process.daemons import run
from openimds.netconfig.port_security import port_filter

pytestmark = pytest.mark.kernel

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "metadata-path.md"
COMMANDS = re.findall(r"^```console\n# (.+)$", PAGE.read_text(), re.MULTILINE)
ONLY_IN = {"haproxy": "$NET.pid.haproxy", "direct": "$NET.json"}


@pytest.mark.parametrize("metadata_proxy", ONLY_IN)
def test_every_command_of_the_page_has_output(host: Host, metadata_proxy: str) -> None:
    """The variables `NET`, `ROUTER`, `VM`, `TAP` and `STATE` have the values that the page names."""
    elsewhere = [what for kind, what in ONLY_IN.items() if kind != metadata_proxy]
    # This network has no IPv6 subnet.
    commands = [command for command in COMMANDS if not any(what in command for what in ("fe80::a9fe", *elsewhere))]
    assert len(commands) > 10
    with lab_stage(host, metadata_proxy) as lab:
        stage = lab.network
        lab.route(stage.subnet)
        port = stage.port("192.168.40.77")
        lab.round()
        stage.boot(port)
        security = port_filter(port, [stage.subnet])
        assert security
        PortSecurityTable(host.prefix).apply([security])
        names = f"NET={stage.network.id} ROUTER={lab.router.id} VM={port.id} TAP={port.tap_name} STATE={stage.folder}"
        for command in commands:
            here = re.sub(r"\b(qdhcp-|qrouter-|qvm-)", rf"{host.prefix}\1", command)
            here = here.replace("bridge openimds ", f"bridge {table_name(host.prefix)} ")
            assert run(["sh", "-c", f"{names}; {here}"]).strip(), command
