"""The metadata API with real vendor data targets: a working, a silent and a failing one."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.programs.metadata_api.test_main import ID, Program, program
from tests.waiting import HANG_SECONDS

__all__ = ["program"]  # the fixture

PATH = "/openstack/latest/vendor_data2.json"


class Target(BaseHTTPRequestHandler):
    request_count = 0

    def do_POST(self) -> None:
        type(self).request_count += 1
        document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        response = json.dumps({"hello": document["instance-id"]}).encode()
        self.send_response(500 if self.path == "/fails" else 200)
        self.send_header("Cache-Control", "max-age=60")
        self.send_header("Content-Length", str(len(response)))
        self.end_headers()
        self.wfile.write(response)

    def log_message(self, *_arguments: object) -> None:
        """Writes no log."""


@contextmanager
def targets() -> Iterator[tuple[str, socket.socket]]:
    """A working target, and the listening socket of a target that accepts requests and never responds."""
    Target.request_count = 0
    with ThreadingHTTPServer(("127.0.0.1", 0), Target) as server, socket.create_server(("127.0.0.1", 0)) as silent:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", silent
        server.shutdown()


def url_of(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


def options(named: str, *more: str) -> str:
    lines = ("vendordata_providers = StaticJSON, DynamicJSON", f"vendordata_dynamic_targets = {named}",
             *more)  # fmt: skip
    return "\n".join(lines)


def test_slow_and_failing_targets_do_not_delay_other_documents(program: Program) -> None:
    with targets() as (good, silent):
        timeouts = f"vendordata_dynamic_read_timeout = {HANG_SECONDS:.0f}"
        program.start(api=options(f"good@{good}/, bad@{good}/fails, slow@{url_of(silent)}/", timeouts))
        program.wait_ready()
        with ThreadPoolExecutor(1) as pool:
            pending = pool.submit(program.get, PATH)
            with silent.accept()[0]:  # the request to the silent target is open
                for _ in range(10):  # other documents do not wait for vendor data
                    assert program.get("/latest/meta-data/hostname")[0] == 200
                assert not pending.done()
            silent.close()
            status, body = pending.result()
        assert status == 200
        assert json.loads(body) == {"static": {}, "good": {"hello": ID}, "bad": {}, "slow": {}}
        request_count = Target.request_count
        assert json.loads(program.get(PATH)[1])["good"] == {"hello": ID}
        assert Target.request_count == request_count + 1, "the response of the working target is cached"
        assert program.stop() == 0


def test_request_to_a_silent_target_times_out(program: Program) -> None:
    with targets() as (good, silent):
        timeouts = ("vendordata_dynamic_connect_timeout = 1", "vendordata_dynamic_read_timeout = 1")
        program.start(api=options(f"good@{good}/, slow@{url_of(silent)}/", *timeouts))
        program.wait_ready()
        assert json.loads(program.get(PATH)[1])["slow"] == {}
        assert program.stop() == 0


def test_fatal_failure_of_a_target_fails_the_document(program: Program) -> None:
    with targets() as (good, _silent):
        program.start(api=options(f"bad@{good}/fails", "vendordata_dynamic_failure_fatal = true"))
        program.wait_ready()
        assert program.get(PATH)[0] == 503
        assert program.get("/openstack/latest/vendor_data.json")[0] == 200
