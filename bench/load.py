"""A bounded load of one URL by wrk, and the reference: a HAProxy that returns the same bytes from memory."""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CONNECTIONS = 64
THREADS = 1
SECONDS = 5


@dataclass(frozen=True, slots=True)
class Load:
    """The result of one run of wrk."""

    requests_per_second: float
    p50_ms: float
    p99_ms: float
    failed: int
    """Responses other than 2xx and 3xx, and socket errors."""


def measure(
    url: str,
    headers: Mapping[str, str],
    *,
    namespace: str | None = None,
    script: Path | None = None,
    seconds: int = SECONDS,
) -> Load:
    """Ask `url` over CONNECTIONS kept-alive connections for `seconds`, from inside `namespace` if given; what `script`
    says, if given.
    """
    argv = ["ip", "netns", "exec", namespace] if namespace else []
    argv += ["wrk", f"-t{THREADS}", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", "--timeout", "10s"]
    for name, value in headers.items():
        argv += ["-H", f"{name}: {value}"]
    argv += ["-s", str(script)] if script else []
    result = subprocess.run([*argv, url], capture_output=True, text=True, timeout=seconds + 30, check=True)
    return parse_wrk(result.stdout)


def parse_wrk(text: str) -> Load:
    """Wrk's report: `Requests/sec: 123.4`, `99% 3.21ms`, `Non-2xx or 3xx responses: 5`, `Socket errors: connect 0, …`."""
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    failed = (int(refused.group(1)) if refused else 0) + (sum(map(int, errors.groups())) if errors else 0)
    return Load(float(rate.group(1)) if rate else 0.0, _percentile_ms(text, 50), _percentile_ms(text, 99), failed)


@contextmanager
def haproxy(config: str, namespace: str | None = None) -> Iterator[int]:
    """Runs a HAProxy with one thread, and with `config` after the global section. Yields its process id."""
    with tempfile.TemporaryDirectory(prefix="openimds-bench-") as folder:
        path = Path(folder) / "haproxy.cfg"
        path.write_text(f"{GLOBALS}\n{config}\n")
        argv = ["ip", "netns", "exec", namespace] if namespace else []
        process = subprocess.Popen([*argv, "haproxy", "-db", "-f", str(path)], stderr=subprocess.PIPE, text=True)
        try:
            time.sleep(0.3)
            if process.poll() is not None:
                raise RuntimeError(f"haproxy did not start: {process.stderr.read() if process.stderr else ''}")
            yield process.pid
        finally:
            process.terminate()
            process.wait(10)


GLOBALS = """
global
    nbthread 1
    maxconn 4000
defaults
    mode http
    timeout connect 30s
    timeout client 32s
    timeout server 32s
    timeout http-request 30s
    timeout http-keep-alive 30s
"""


def answering(bind: str, body_file: Path, content_type: str) -> str:
    """A frontend that answers every request with the bytes of `body_file`, from memory."""
    return (
        f"frontend memory\n    bind {bind}\n"
        f'    http-request return status 200 content-type "{content_type}" file {body_file}\n'
    )


def forwarding(name: str, bind: str, server: str) -> str:
    """A hop: forwards every request from `bind` to `server`."""
    return (
        f"frontend {name}\n    bind {bind}\n    default_backend {name}_to\nbackend {name}_to\n    server to {server}\n"
    )


def _percentile_ms(text: str, percent: int) -> float:
    found = re.search(rf"\s{percent}%\s+([\d.]+)(us|ms|s)", text)
    if found is None:
        return 0.0
    return float(found.group(1)) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[found.group(2)]
