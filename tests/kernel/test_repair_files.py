"""Changes to the listener files of a metadata agent, and to whole directories, are repaired."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.kernel import repair_stage, test_network_agents
from tests.kernel.listening import KeptHere, listening
from tests.kernel.repair_stage import AN_HOUR, Wired
from tests.kernel.test_network_agents import Cloud
from tests.waiting import until

from openimds.netconfig.listener_file import listeners_file

pytestmark = pytest.mark.kernel

cloud = test_network_agents.cloud
network = repair_stage.network


def _edit(path: Path) -> None:
    path.write_text("{}")


CHANGES: dict[str, Callable[[Path], object]] = {
    "edited": _edit,
    "deleted": Path.unlink,
    "folder deleted": lambda path: shutil.rmtree(path.parent),
    "folder moved": lambda path: path.parent.rename(path.parent.with_name("elsewhere")),
}


def test_listener_file_is_written_again(cloud: Cloud) -> None:
    kept = KeptHere()
    cloud.put_router()
    try:
        with listening(cloud.state, kept):
            cloud.dhcp.start(AN_HOUR + "force_metadata = True\nmetadata_proxy = direct")
            cloud.l3.start(AN_HOUR + "metadata_proxy = direct")
            until(lambda: cloud.provisioned(5) == ["dhcp"] and cloud.provisioned(3) == ["l2"])
            files = [listeners_file(name, cloud.state) for name in (cloud.network_id, cloud.router_id)]
            texts = [file.read_text() for file in files]
            for change in CHANGES.values():
                for file in files:
                    if file.exists():
                        change(file)
                until(lambda: _texts(files) == texts)
    finally:
        kept.close()


def _texts(files: list[Path]) -> list[str]:
    return [file.read_text() if file.exists() else "" for file in files]


@pytest.mark.parametrize("folder", ["dhcp", "ns-metadata-proxy", "external/pids"])
def test_deleted_directory_is_created_again_and_watched(network: Wired, folder: str) -> None:
    network.is_repaired(lambda: shutil.rmtree(network.cloud.state / folder), restarts=True)
    for path in network.files:
        network.is_repaired(path.unlink, restarts=True)
