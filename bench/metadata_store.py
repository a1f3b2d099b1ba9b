"""A metadata API on a store with any number of instances, without agents and control API."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.compat.recordings import load_instances
from tests.ports import free_ports

from bench.network_rows import give_ports
from openimds.store import schema
from openimds.store.engine import Store
from openimds.store.importer.importer import InstanceStore

SECRET = "bench-secret"
START_SECONDS = 60
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class MetadataApi:
    """`openimds metadata-api`, one worker, SQLite."""

    folder: Path
    port: int = 0
    project: str = ""
    ids: list[str] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def headers(self, instance_id: str) -> dict[str, str]:
        """The headers of the metadata agent without the request id."""
        signature = hmac.new(SECRET.encode(), instance_id.encode(), hashlib.sha256).hexdigest()
        return {
            "X-Forwarded-For": "10.0.0.5",
            "X-Instance-ID": instance_id,
            "X-Tenant-ID": self.project,
            "X-Instance-ID-Signature": signature,
        }

    def rss_mib(self) -> float:
        line = next(line for line in Path(f"/proc/{self.pid}/status").read_text().splitlines() if "VmRSS" in line)
        return int(line.split()[1]) / 1024


@contextmanager
def metadata_api(instances: int, with_ports: int = 0) -> Iterator[MetadataApi]:
    """Running, with so many instances in its store, the last of which have ports in it (network_rows.py); ended and
    removed at the end of the block.
    """
    with tempfile.TemporaryDirectory(prefix="openimds-bench-") as folder:
        api = MetadataApi(Path(folder), free_ports(1)[0])
        _fill(api, instances)
        if with_ports:
            store = Store(f"sqlite:///{api.folder}/state/openimds.sqlite")
            give_ports(store, api.project, api.ids[-with_ports:])
            store.close()
        _start(api)
        try:
            yield api
        finally:
            assert api.process is not None
            api.process.terminate()
            api.process.wait(30)


def cpu_seconds(pid: int) -> float:
    """The processor time of a process, in user space and in the kernel."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _fill(api: MetadataApi, instances: int) -> None:
    """The main instance of the compatibility tests, and copies of its row with other ids."""
    (api.folder / "state").mkdir()
    file = api.folder / "state" / "openimds.sqlite"
    store = Store(f"sqlite:///{file}")
    schema.upgrade(store)
    main: Mapping[str, Any] = next(entry for entry in load_instances()["instances"] if entry.get("main"))
    api.project = main["project_id"]
    api.ids = [main["uuid"], *(str(uuid.UUID(int=number + (1 << 100))) for number in range(1, instances))]
    InstanceStore(store).import_instances({"instances": [main]})
    store.close()
    with sqlite3.connect(file) as connection:
        names = [row[1] for row in connection.execute("PRAGMA table_info(servers)")]
        row = list(connection.execute(f"SELECT {', '.join(names)} FROM servers").fetchone())
        place = names.index("id")
        copies = ([*row[:place], one, *row[place + 1 :]] for one in api.ids[1:])
        connection.executemany(f"INSERT INTO servers VALUES ({', '.join('?' * len(names))})", copies)
    connection.close()


def _start(api: MetadataApi) -> None:
    file = api.folder / "nova.conf"
    file.write_text(
        f"[DEFAULT]\nmetadata_listen = 127.0.0.1\nmetadata_listen_port = {api.port}\nmetadata_workers = 1\n"
        f"state_path = {api.folder}/state\n[neutron]\nservice_metadata_proxy = true\n"
        f"metadata_proxy_shared_secret = {SECRET}\n"
    )
    argv: Sequence[str] = [sys.executable, "-m", "openimds", "metadata-api", "--config-file", str(file)]
    log = api.folder / "log"
    with log.open("wb") as stream:
        api.process = subprocess.Popen(argv, stdout=stream, stderr=stream)
    deadline = time.monotonic() + START_SECONDS
    while b" ready " not in log.read_bytes():
        if time.monotonic() > deadline or api.process.poll() is not None:
            raise RuntimeError(f"the metadata API did not start: {log.read_text()}")
        time.sleep(0.05)


def wrk_script(path: Path, requests: Sequence[tuple[str, Mapping[str, str]]], *, new_ids: bool) -> Path:
    """A script for wrk that asks these (target, headers) in turn; with `new_ids`, each under a request id of its own."""
    rows = (
        "{{path = {}, headers = {{{}}}}}".format(
            json.dumps(target),
            ", ".join(f"[{json.dumps(name)}] = {json.dumps(text)}" for name, text in headers.items()),
        )
        for target, headers in requests
    )
    table = "{" + ",\n".join(rows) + "}"
    path.write_text(_SCRIPT % (table, "true" if new_ids else "false"))
    return path


_SCRIPT = """
local requests = %s
local new_ids = %s
local n = 0
function request()
  n = n + 1
  local one = requests[n %% #requests + 1]
  if new_ids then
    one.headers["X-Openstack-Request-Id"] = string.format("req-%%08x-0000-4000-8000-%%012x", n, n)
  end
  return wrk.format("GET", one.path, one.headers)
end
"""
