"""Another program of a newer version has upgraded the store, while those of this version run on it and guests ask."""

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
    # What guests' documents are made of and what refers to it, made anew, as SQLite takes most changes.
    for table in ("servers", "ports"):
        with op.batch_alter_table(table, recreate="always") as altered:
            altered.add_column(sa.Column("of_the_next_version", sa.Integer))
"""


def test_programs_of_this_version_go_on_and_none_is_started_again(fresh_cloud: Cloud) -> None:
    cloud = fresh_cloud
    cloud.up("--metadata-proxy", "haproxy")  # every answer is the metadata API's, and of the store
    api = ApiClient(cloud)
    network = api.network("n", "192.168.40.0/24")
    router = api.router("r", network)
    user_data = base64.b64encode(b"canary").decode()
    vm = api.server("vm", network, user_data=user_data)
    cloud.wait_booted(vm, "vm")
    copy = cloud.state_dir.parent / "copy.sqlite"
    with closing(sqlite3.connect(cloud.state_dir / "openimds.sqlite")) as store, closing(sqlite3.connect(copy)) as kept:
        store.backup(kept)

    assert "→ 9999" in upgraded_by_a_newer_version(cloud)

    # Those who run read and write.
    assert asked(cloud, vm, "/latest/user-data") == "canary"
    api.set_properties(vm, told="after the upgrade")
    until(lambda: "after the upgrade" in asked(cloud, vm, "/openstack/latest/meta_data.json"), "what is new is told")
    other = api.server("other", network)
    cloud.wait_booted(other, "other")
    assert asked(cloud, other, "/latest/meta-data/hostname") == "other.novalocal"

    # Who starts says that it cannot, and why.
    for part in ("metadata-api", "control-api"):
        failed = cloud.openimds("restart", part, check=False)
        assert failed.returncode == 1
        assert "the tables are at 9999, which a newer openimds made" in failed.stdout + failed.stderr + cloud.log(part)
    assert "Traceback" not in cloud.log("metadata-api") + cloud.log("control-api")

    # The way back, as the guide has it: all that was made since is gone.
    cloud.openimds("down")
    for left in cloud.state_dir.glob("openimds.sqlite*"):
        left.unlink()
    shutil.copy(copy, cloud.state_dir / "openimds.sqlite")
    cloud.up()
    assert [server["id"] for server in api.get("compute", "/servers")["servers"]] == [vm]
    assert [one["id"] for one in api.get("network", "/v2.0/routers")["routers"]] == [router]
    until(lambda: asked(cloud, vm, "/latest/user-data") == "canary", "the guest is answered")


def asked(cloud: Cloud, server: str, path: str) -> str:
    """What the guest is answered; empty while it is not."""
    return cloud.inside(f"qvm-{server}", "curl", "-sf", "-m", f"{HANG_SECONDS:g}", f"{URL}{path}", check=False)


def upgraded_by_a_newer_version(cloud: Cloud) -> str:
    """What its `openimds db upgrade` says."""
    newer = cloud.state_dir.parent / "newer"
    shutil.copytree(Path(openimds.__file__).parent, newer / "openimds", ignore=shutil.ignore_patterns("__pycache__"))
    steps = newer / "openimds" / "store" / "migrations" / "versions"
    before = max(step.name.partition("_")[0] for step in steps.glob("[0-9]*.py"))
    (steps / "9999_of_the_next_version.py").write_text(STEP.format(before=before))
    argv = [str(BIN / "openimds"), "db", "upgrade", f"--config-file={cloud.state_dir / 'etc' / 'nova.conf'}"]
    return run(argv, env={"PATH": f"{BIN}:/usr/bin", "PYTHONPATH": str(newer)}).stdout
