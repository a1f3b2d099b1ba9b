"""A newer version upgrades the database while programs of this version run."""

from __future__ import annotations

import base64
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from tests.system.api_client import ApiClient
from tests.system.cloud import BIN, Cloud, run
from tests.waiting import HANG_SECONDS, until

import openimds

URL = "http://169.254.169.254"
STEP = """
import sqlalchemy as sa
from alembic import op

revision = "9999"
down_revision = "{before}"


def upgrade() -> None:
    # Recreates tables of the documents, because SQLite needs this for most changes.
    for table in ("servers", "ports"):
        with op.batch_alter_table(table, recreate="always") as altered:
            altered.add_column(sa.Column("of_the_next_version", sa.Integer))
"""


def test_running_programs_go_on_and_new_ones_refuse_the_newer_tables(fresh_cloud: Cloud) -> None:
    cloud = fresh_cloud
    cloud.up("--metadata-proxy", "haproxy")  # the metadata API reads the database for every response
    api = ApiClient(cloud)
    network = api.network("n", "192.168.40.0/24")
    router = api.router("r", network)
    user_data = base64.b64encode(b"canary").decode()
    vm = api.server("vm", network, user_data=user_data)
    cloud.wait_booted(vm, "vm")
    copy = cloud.state_dir.parent / "copy.sqlite"
    with (
        closing(sqlite3.connect(cloud.state_dir / "openimds.sqlite")) as store,
        closing(sqlite3.connect(copy)) as target,
    ):
        store.backup(target)

    assert "→ 9999" in upgraded_by_a_newer_version(cloud)

    # The running programs read and write.
    assert read(cloud, vm, "/latest/user-data") == "canary"
    api.set_properties(vm, written="after the upgrade")
    until(
        lambda: "after the upgrade" in read(cloud, vm, "/openstack/latest/meta_data.json"),
        "the new property is in the document",
    )
    other = api.server("other", network)
    cloud.wait_booted(other, "other")
    assert read(cloud, other, "/latest/meta-data/hostname") == "other.novalocal"

    # A program that starts refuses with the reason.
    for part in ("metadata-api", "control-api"):
        failed = cloud.openimds("restart", part, check=False)
        assert failed.returncode == 1
        assert "the tables have version 9999 of a newer openimds" in failed.stdout + failed.stderr + cloud.log(part)
    assert "Traceback" not in cloud.log("metadata-api") + cloud.log("control-api")

    # Downgrade as in the guide: the changes since the backup are lost.
    cloud.openimds("down")
    for left in cloud.state_dir.glob("openimds.sqlite*"):
        left.unlink()
    shutil.copy(copy, cloud.state_dir / "openimds.sqlite")
    cloud.up()
    cloud.line(f"openimds host adopt --state-dir {cloud.state_dir}")
    assert [server["id"] for server in api.get("compute", "/servers")["servers"]] == [vm]
    assert [one["id"] for one in api.get("network", "/v2.0/routers")["routers"]] == [router]
    until(lambda: read(cloud, vm, "/latest/user-data") == "canary", "the guest reads its user data")


def read(cloud: Cloud, server: str, path: str) -> str:
    """The body that the guest receives. Empty if there is no response."""
    return cloud.inside(f"qvm-{server}", "curl", "-sf", "-m", f"{HANG_SECONDS:g}", f"{URL}{path}", check=False)


def upgraded_by_a_newer_version(cloud: Cloud) -> str:
    """The output of the newer version's `openimds db upgrade`."""
    newer = cloud.state_dir.parent / "newer"
    shutil.copytree(Path(openimds.__file__).parent, newer / "openimds", ignore=shutil.ignore_patterns("__pycache__"))
    steps = newer / "openimds" / "store" / "migrations" / "versions"
    before = max(step.name.partition("_")[0] for step in steps.glob("[0-9]*.py"))
    (steps / "9999_of_the_next_version.py").write_text(STEP.format(before=before))
    argv = [str(BIN / "openimds"), "db", "upgrade", f"--config-file={cloud.state_dir / 'etc' / 'nova.conf'}"]
    return run(argv, env={"PATH": f"{BIN}:/usr/bin", "PYTHONPATH": str(newer)}).stdout
