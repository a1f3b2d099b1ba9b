"""A fuzzer of the metadata API: a guest's bytes go through the parser, the rules and the documents.

    python -m tests.security.fuzz --seconds 60 [--folder build/fuzz]

Each input is sent whole, in pieces and again. No response has the status 500, h11 parses all responses, and no response
contains data of beta, because the seeds have only alpha's signature. The position of the cuts does not change the statuses.
The fuzzer is atheris (libFuzzer), guided by coverage. Without atheris it mutates the same seeds at random.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

try:
    import atheris
except ImportError:
    atheris = None

with atheris.instrument_imports(include=["openimds"]) if atheris else contextlib.nullcontext():
    import structlog
    from tests.compat.stage import Stage
    from tests.security.instances import ALPHA, BETA, instances_document, request
    from tests.security.responses import answers

    from openimds.http.messages import Response
    from openimds.http.server.connection import Connection, ResponseWriter
    from openimds.http.server.response import ResponseCache
    from openimds.http.server.server import HttpServer
    from openimds.programs.metadata_api.worker import LIMITS

MAX_BYTES = 4096
_HOSTNAME = "/latest/meta-data/hostname"


def seeds() -> list[bytes]:
    """Valid and almost valid requests as the first inputs."""
    claim = ALPHA.claim
    keep = {"Connection": "keep-alive"}
    paths = (
        "/", _HOSTNAME, "/latest/meta-data/", "/openstack/latest/meta_data.json", "/openstack/latest/user_data",
        "/openstack/../latest/%2e/user-data", "http://a/openstack", "/latest/api/token",
    )  # fmt: skip
    found = [request("GET", path, keep | claim) for path in paths]
    found += [request(method, _HOSTNAME, claim) for method in ("HEAD", "PUT", "TRACE", "OPTIONS")]
    found.append(b"".join(found[:3]) + request("GET", "/", claim))
    found.append(request("PUT", "/latest/api/token", claim | {"X-aws-ec2-metadata-token-ttl-seconds": "60"}))
    found.append(request("POST", "/openstack/latest/password", claim, b"encrypted"))
    found.append(request("POST", "/openstack/latest/password", claim | {"Expect": "100-continue"}, b"encrypted"))
    found.append(
        request("POST", "/openstack/latest/password", claim | {"Transfer-Encoding": "chunked"})
        + b"3;a=b\r\nabc\r\n0\r\nT: t\r\n\r\n"
    )
    for name, value in BETA.claim.items():
        if name != "X-Instance-ID-Signature":
            found.append(request("GET", _HOSTNAME, claim | {name: value}))
            found.append(request("GET", _HOSTNAME, keep | {name.replace("-", "_"): value} | claim))
    found.append(
        request("GET", _HOSTNAME, keep | {"X-Openstack-Request-Id": "req-00000000-0000-4000-8000-000000000000"} | claim)
    )
    found.append(request("GET", _HOSTNAME, {"X-Metadata-Provider": BETA.uuid} | claim))
    found.append(request("GET", "/", keep | claim) + request("HEAD", _HOSTNAME, claim))
    return found


class RecordingWriter(ResponseWriter):
    """Records the methods of the requests. h11 needs them to know whether a response has a body."""

    __slots__ = ("methods",)

    methods: list[str]

    def write(self, answer: Response, method: str, *, keep_alive: bool) -> None:
        self.methods.append(method)
        super().write(answer, method, keep_alive=keep_alive)


class RecordingCache(ResponseCache):
    """Records GET for each response that the cache stores or serves."""

    methods: list[str]

    def learn(
        self, head: bytes, answer: Response, date: bytes, client_key: bytes = b"", *, keep_alive: bool = True
    ) -> bytes | None:
        stored = super().learn(head, answer, date, client_key, keep_alive=keep_alive)
        self.methods += ["GET"] * (stored is not None)
        return stored

    def answer(self, data: bytes, date: bytes, client_key: bytes = b"") -> tuple[bytes, bool] | None:
        answer = super().answer(data, date, client_key)
        self.methods += ["GET"] * (answer is not None)
        return answer


class Server:
    """The server of the metadata API without sockets: the tests call a connection as the event loop does."""

    def __init__(self, folder: Path) -> None:
        self._loop = asyncio.new_event_loop()
        stage = Stage(folder, instances_document())
        stage.threads = Inline()  # type: ignore[assignment]
        self._server = HttpServer(stage.service("cache").handle)
        self._server.loop = self._loop
        self._repeats = RecordingCache()
        for guest in (ALPHA, BETA):  # loads both instances into the cache and sets their passwords
            self.exchange([request("POST", "/openstack/latest/password", guest.claim, f"{guest.canary} word".encode())])

    def exchange(self, pieces: list[bytes]) -> tuple[bytes, list[str]]:
        """Sends the pieces and the end of the stream. Returns the response bytes and the requests' methods."""
        transport = Written()
        connection = Connection(self._server, LIMITS, "fuzz", self._repeats)
        connection.connection_made(transport)
        connection._writer = writer = RecordingWriter(transport, "fuzz")
        writer.methods = self._repeats.methods = []
        for piece in pieces:
            connection.data_received(piece)
            self._settle(connection)
        connection.eof_received()
        self._settle(connection)
        connection.connection_lost(None)
        return bytes(transport.raw), writer.methods

    def _settle(self, connection: Connection) -> None:
        while (task := connection._task) is not None:
            self._loop.run_until_complete(asyncio.wait([task]))


class Inline(Executor):
    """Runs each call in `submit`."""

    def submit(self, what: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(what(*arguments, **named))
        except Exception as error:  # noqa: BLE001 - as an executor does
            done.set_exception(error)
        return done


class Written(asyncio.Transport):
    """Stores the written bytes."""

    def __init__(self) -> None:
        super().__init__({"peername": ""})
        self.raw = bytearray()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.raw += data

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Fuzz:
    def __init__(self, server: Server) -> None:
        self._server = server
        self.count = 0

    def __call__(self, data: bytes) -> None:
        """Checks one input. Raises AssertionError, or an exception that the server did not catch."""
        self.count += 1
        whole = self._statuses([data])
        size = 1 + len(data) % 61
        in_pieces = self._statuses([data[start : start + size] for start in range(0, len(data), size)])
        again = self._statuses([data])
        assert whole == again, (whole, again)
        # The cuts may change the reason and thus the status of the final refusal, but no other status.
        assert len(whole) == len(in_pieces), (whole, in_pieces)
        for one, other in zip(whole, in_pieces, strict=True):
            assert one == other or (one >= 400 and other >= 400 and one is whole[-1]), (whole, in_pieces)

    def _statuses(self, pieces: list[bytes]) -> list[int]:
        raw, methods = self._server.exchange(pieces)
        leaked = [secret for secret in BETA.secrets if secret in raw]
        assert not leaked, f"a response contains beta's {leaked}"
        found = answers(raw, methods)
        assert not [answer for answer in found if answer.status == 500], "the server failed"
        return [answer.status for answer in found]


def mutated(chosen: random.Random, corpus: list[bytes]) -> bytes:
    """A seed with parts removed, repeated, replaced or combined with another seed."""
    data = bytearray(chosen.choice(corpus))
    for _ in range(chosen.randint(1, 6)):
        place = chosen.randrange(len(data) + 1)
        end = min(len(data), place + chosen.randint(0, 30))
        match chosen.randrange(5):
            case 0:
                del data[place:end]
            case 1:
                data[place:place] = data[place:end] * chosen.randint(1, 3)
            case 2:
                data[place:end] = chosen.choice(
                    (b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b"%00", b"\xff")
                )
            case 3:
                other = chosen.choice(corpus)
                data[place:place] = other[chosen.randrange(len(other)) :]
            case _:
                data[place:end] = chosen.randbytes(end - place)
    return bytes(data[:MAX_BYTES])


def run_mutations(fuzz: Fuzz, seconds: float) -> None:
    chosen, corpus = random.Random(0), seeds()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        data = mutated(chosen, corpus)
        try:
            fuzz(data)
        except BaseException:
            sys.stderr.write(f"failed on {data!r}\n")
            raise
    sys.stderr.write(f"{fuzz.count} inputs, no fault\n")


def run_guided(fuzz: Fuzz, seconds: float, folder: Path) -> None:
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds()):
        (corpus / f"seed-{number:02}").write_bytes(seed)
    options = (
        f"-max_total_time={int(seconds)}", f"-max_len={MAX_BYTES}", "-timeout=10", "-rss_limit_mb=2048",
        f"-artifact_prefix={folder}/", "-print_final_stats=1", "-verbosity=0",
    )  # fmt: skip
    atheris.Setup([sys.argv[0], *options, str(corpus)], fuzz)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--folder", type=Path, help="folder of the corpus and of the failing inputs")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with tempfile.TemporaryDirectory() as folder:
        fuzz = Fuzz(Server(Path(folder)))
        for seed in seeds():
            fuzz(seed)
        if atheris is not None and not os.environ.get("FUZZ_WITHOUT_ATHERIS"):
            run_guided(fuzz, options.seconds, options.folder or Path(folder))
        else:
            run_mutations(fuzz, options.seconds)


if __name__ == "__main__":
    main()
