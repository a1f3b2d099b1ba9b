"""Fixtures: real namespaces with a random prefix, and a check that each test removes everything that it made."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import janitor
from tests.kernel.stage import Host, traces

from openimds.linux.configure.cleanup import remove_everything
from openimds.linux.configure.configurator import NetworkConfigurator
from openimds.linux.configure.ownership import OwnershipRecord


@pytest.fixture(autouse=True)
def only_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: namespaces and bridges are made")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    tag = secrets.token_hex(3)
    before = traces()
    ownership = OwnershipRecord(tmp_path / "owned")
    prefix = f"t{tag}-"
    janitor.register_host(tmp_path, prefix)
    try:
        yield Host(NetworkConfigurator(ownership, prefix), ownership, prefix, tmp_path, tag)
    finally:
        remove_everything(ownership, prefix)
        janitor.unregister(tmp_path)
    left = {line for line in traces() - before if tag in line}
    assert not left
