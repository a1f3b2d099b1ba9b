from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openimds.netconfig.dhcp_options import option_line
from openimds.resources.network import ExtraDhcpOption


@pytest.mark.parametrize(
    ("option", "line"),
    [
        (ExtraDhcpOption("bootfile-name", "a.efi"), "tag:t,option:bootfile-name,a.efi"),
        (ExtraDhcpOption("ntp-server", "10.0.0.1,10.0.0.2"), "tag:t,option:ntp-server,10.0.0.1,10.0.0.2"),
        (ExtraDhcpOption("router", ""), "tag:t,option:router"),
        (ExtraDhcpOption("150", "10.0.0.1"), "tag:t,150,10.0.0.1"),
        (ExtraDhcpOption("bootfile-url", "http://x", 6), "tag:t,option6:bootfile-url,http://x"),
        (ExtraDhcpOption("59", "http://x", 6), "tag:t,option6:59,http://x"),
    ],
)
def test_allowed(option, line) -> None:
    assert option_line("t", option) == line


@pytest.mark.parametrize(
    "option",
    [
        ExtraDhcpOption("bootfile-name", "a\nb"),
        ExtraDhcpOption("bootfile-name", "a\rb"),
        ExtraDhcpOption("bootfile-name", "a\0b"),
        ExtraDhcpOption("bootfile-name", "ä"),
        ExtraDhcpOption("bootfile-name", "x" * 256),
        ExtraDhcpOption("bootfile-name\nrouter", "x"),
        ExtraDhcpOption("no-such-option", "x"),
        ExtraDhcpOption("54", "10.0.0.1"),
        ExtraDhcpOption("51", "1"),
        ExtraDhcpOption("256", "1"),
        ExtraDhcpOption("٣", "1"),
        ExtraDhcpOption("", "1"),
        ExtraDhcpOption("bootfile-name", "x", 6),
        ExtraDhcpOption("1", "x", 6),
        ExtraDhcpOption("70000", "x", 6),
    ],
    ids=repr,
)
def test_refused(option) -> None:
    assert option_line("t", option) is None


@given(st.text(), st.text(), st.sampled_from([4, 6]))
def test_a_line_stays_a_line(name: str, value: str, version: int) -> None:
    line = option_line("t", ExtraDhcpOption(name, value, version))
    assert line is None or (line.isascii() and len(line.splitlines()) == 1)
