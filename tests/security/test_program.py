"""Checklist rows 32 and 33: the metadata API as a program with TLS, an empty secret and two secrets."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.databases import migrated_store
from tests.ports import free_port
from tests.security.certificates import Authority, Files
from tests.security.instances import ALPHA, BETA, SECRET, instances_document, request
from tests.security.responses import Answer, answers
from tests.waiting import HANG_SECONDS, until

from openimds.guest_identity.signature import sign
from openimds.store.importer.importer import InstanceStore

HOSTNAME = "/latest/meta-data/hostname"


@dataclass
class Program:
    """`openimds metadata-api` with the two instances in its database."""

    folder: Path
    port: int
    metrics_port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def file(self) -> Path:
        return self.folder / "nova.conf"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def configure(self, *lines: str, secret: str = SECRET, neutron: str = "") -> None:
        self.file.write_text(
            f"[DEFAULT]\nstate_path = {self.folder}\nmetadata_listen = 127.0.0.1\nlog_format = json\n"
            f"metadata_listen_port = {self.port}\n[metrics]\nport = {self.metrics_port}\n"
            f"[neutron]\nservice_metadata_proxy = true\nmetadata_proxy_shared_secret = {secret}\n{neutron}\n"
            + "\n".join(lines)
            + "\n"
        )

    def start(self) -> None:
        argv = [sys.executable, "-m", "openimds", "metadata-api", "--config-file", str(self.file)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(argv, stderr=log, stdout=log)
        until(lambda: '"event": "ready"' in self.log or (self.process and self.process.poll() is not None))

    def reload(self) -> None:
        assert self.process
        before = self.log.count("configuration reloaded")
        self.process.send_signal(signal.SIGHUP)
        until(lambda: self.log.count("configuration reloaded") > before)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(HANG_SECONDS)

    def ask(self, headers: dict[str, str], tls: ssl.SSLContext | None = None) -> Answer:
        with socket.create_connection(("127.0.0.1", self.port), HANG_SECONDS) as plain:
            line = tls.wrap_socket(plain, server_hostname="127.0.0.1") if tls else plain
            line.sendall(request("GET", HOSTNAME, headers))
            raw = b"".join(iter(lambda: line.recv(65536), b""))
            line.close()
        (answer,) = answers(raw, [])
        return answer

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=HANG_SECONDS) as page:
            found = [line for line in page.read().decode().splitlines() if line.startswith(name)]
        return float(found[0].split()[-1]) if found else 0.0


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    store = migrated_store(tmp_path)
    InstanceStore(store).import_instances(instances_document())
    store.close()
    made = Program(tmp_path, free_port(), free_port())
    try:
        yield made
    finally:
        made.stop()


def tls_lines(files: Files, authority: Path | None = None) -> tuple[str, ...]:
    lines = (
        "[DEFAULT]",
        "enabled_ssl_apis = metadata",
        "[wsgi]",
        f"ssl_cert_file = {files.certificate}",
        f"ssl_key_file = {files.key}",
    )
    return (*lines, f"ssl_ca_file = {authority}") if authority else lines


def trusting(authority: Authority, mine: Files | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.file))
    if mine is not None:
        context.load_cert_chain(mine.certificate, mine.key)
    return context


def test_renewed_certificate_is_served_after_a_reload(program: Program, tmp_path: Path) -> None:
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    program.configure(*tls_lines(old.issue("server")))
    program.start()
    answer = program.ask(ALPHA.claim, trusting(old))
    assert answer.body.startswith(ALPHA.canary.encode())
    with pytest.raises(ssl.SSLCertVerificationError):
        program.ask(ALPHA.claim, trusting(new))
    with socket.create_connection(("127.0.0.1", program.port), HANG_SECONDS) as plain:
        plain.sendall(request("GET", HOSTNAME, ALPHA.claim))
        assert not plain.recv(4096).startswith(b"HTTP/"), "no plain HTTP on the TLS port"
    program.configure(*tls_lines(new.issue("server")))
    program.reload()
    assert program.ask(BETA.claim, trusting(new)).body.startswith(BETA.canary.encode())


@pytest.mark.parametrize("workers", [1, 2])
def test_client_without_a_valid_certificate_is_refused(program: Program, tmp_path: Path, workers: int) -> None:
    servers, clients, others = (Authority(tmp_path, name) for name in ("servers", "clients", "others"))
    lines = tls_lines(servers.issue("server"), clients.file)
    program.configure("[DEFAULT]", f"metadata_workers = {workers}", *lines)
    program.start()
    assert program.ask(ALPHA.claim, trusting(servers, clients.issue("agent"))).status == 200
    for invalid in (None, others.issue("unknown")):
        with pytest.raises((ssl.SSLError, ConnectionError, ValueError)):
            program.ask(ALPHA.claim, trusting(servers, invalid))


def test_start_with_a_mismatched_key_fails(program: Program, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "one")
    mixed = Files(authority.issue("a").certificate, authority.issue("b").key)
    program.configure(*tls_lines(mixed))
    program.start()
    assert program.process
    assert program.process.wait(HANG_SECONDS) != 0
    assert "ssl_key_file" in program.log


def test_32_start_with_an_empty_secret_fails(program: Program) -> None:
    program.configure(secret="")
    program.start()
    assert program.process
    assert program.process.wait(HANG_SECONDS) != 0
    assert "metadata_proxy_shared_secret is empty" in program.log
    program.configure(secret="", neutron="allow_empty_shared_secret = true")
    program.start()
    assert program.ask(ALPHA.claim | {"X-Instance-ID-Signature": sign("", ALPHA.uuid)}).status == 200


def test_33_previous_secret_is_accepted_and_counted(program: Program) -> None:
    program.configure(secret="the new one", neutron=f"metadata_proxy_shared_secret_previous = {SECRET}")
    program.start()
    new = ALPHA.claim | {"X-Instance-ID-Signature": sign("the new one", ALPHA.uuid)}
    assert program.ask(ALPHA.claim).status == 200
    assert [program.ask(new).status for _ in range(2)] == [200, 200]
    assert program.ask(ALPHA.claim | {"X-Instance-ID-Signature": "0" * 64}).status == 403
    name = "openimds_metadata_signatures_total"
    until(lambda: program.metric(f'{name}{{secret="current"}}') == 2)
    assert program.metric(f'{name}{{secret="previous"}}') == 1
    assert program.metric(f'{name}{{secret="none"}}') == 1
    program.configure(secret="the new one")
    program.reload()
    assert program.ask(ALPHA.claim).status == 403
    assert program.ask(new).status == 200
    secrets = (SECRET, "the new one", *(guest.claim["X-Instance-ID-Signature"] for guest in (ALPHA, BETA)))
    assert not [secret for secret in secrets if secret in program.log]
    assert all(json.loads(line) for line in program.log.splitlines() if line.startswith("{"))
