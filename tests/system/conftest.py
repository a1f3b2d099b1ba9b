"""Whole systems: each test module starts one in a state folder of its own, and checks that nothing of it is left."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import janitor
from tests.ports import free_ports
from tests.system.cloud import METADATA_PROXIES, Cloud


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.system)


@pytest.fixture(autouse=True, scope="session")
def only_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: namespaces and bridges are made")


@pytest.fixture(scope="module")
def up_options() -> tuple[str, ...]:
    """Further options of `up` for the fixture `cloud`. A module or a folder overrides this fixture."""
    return ()


@pytest.fixture(scope="module")
def cloud(only_root: None, up_options: tuple[str, ...]) -> Iterator[Cloud]:
    """A running system, which is removed at the end of the module."""
    new = unstarted_cloud()
    try:
        new.up(*up_options)
        yield new
    finally:
        new.remove()


@pytest.fixture(scope="module", params=METADATA_PROXIES)
def metadata_proxy(request: pytest.FixtureRequest, cloud: Cloud) -> str:
    """The mode of the metadata path. Each test with this fixture runs in both modes, on the same system.

    `pytestmark = pytest.mark.usefixtures("metadata_proxy")` applies the fixture to all tests of a module.
    """
    cloud.choose_metadata_proxy(request.param)
    chosen: str = request.param
    return chosen


@pytest.fixture
def fresh_cloud(only_root: None) -> Iterator[Cloud]:
    """A system that the test starts itself."""
    new = unstarted_cloud()
    try:
        yield new
    finally:
        new.remove()


def unstarted_cloud() -> Cloud:
    # Not pytest's tmp_path: the path of a unix socket has at most 107 characters, and the proxies do not run as root.
    root = Path(tempfile.mkdtemp(prefix="oi-"))
    root.chmod(0o711)
    control, metadata = free_ports(2)
    made = Cloud(state_dir=root / "state", control_port=control, metadata_port=metadata,
                 prefix=f"t{secrets.token_hex(3)}-")  # fmt: skip
    janitor.register_cloud(made.state_dir, made.prefix)
    return made
