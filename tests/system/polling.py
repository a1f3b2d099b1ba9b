"""200 polling clients in one process, run as a script in an instance's namespace: `polling.py HOST PORT EXPECTED`.

Half of the clients open a connection for each request, the other half keep theirs. The process prints one JSON object for
each line of its standard input: the number of correct responses and the failures. It ends with its standard input. It needs
only the standard library.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time

POLLERS = 200
TIMEOUT_SECONDS = 120.0
PAUSE_SECONDS = 1.0
PATH = "/latest/meta-data/instance-id"


class StaleError(Exception):
    """A kept connection was closed before the first byte of the response. HTTP clients retry on a new connection."""


class Poller:
    def __init__(self, address: tuple[str, int], expected: bytes, tally: Tally, *, keeps: bool) -> None:
        self._address = address
        self._expected = expected
        self._tally = tally
        self._keeps = keeps
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def poll(self) -> None:
        while True:
            sent_at = time.monotonic()
            try:
                async with asyncio.timeout(TIMEOUT_SECONDS):
                    await self._ask()
            except (OSError, EOFError, ValueError, TimeoutError) as error:
                self._tally.failures.append({"sent_at": sent_at, "error": f"{type(error).__name__}: {error}"})
                await self._close()
            else:
                self._tally.good += 1
            await asyncio.sleep(PAUSE_SECONDS)

    async def _ask(self) -> None:
        try:
            await self._ask_once()
        except StaleError:
            self._tally.reopened += 1
            await self._close()
            await self._ask_once()

    async def _ask_once(self) -> None:
        is_kept = self._streams is not None
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._address)
        reader, writer = self._streams
        connection = "keep-alive" if self._keeps else "close"
        try:
            writer.write(f"GET {PATH} HTTP/1.1\r\nHost: h\r\nConnection: {connection}\r\n\r\n".encode())
            await writer.drain()
            head = await reader.readuntil(b"\r\n\r\n")
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            if is_kept and not getattr(error, "partial", b""):
                raise StaleError from None
            raise
        lines = head.decode().lower().split("\r\n")
        length = next(int(line.partition(":")[2]) for line in lines if line.startswith("content-length:"))
        body = await reader.readexactly(length)
        if " 200 " not in lines[0] or body != self._expected:
            raise ValueError(f"{lines[0]} {body[:200]!r}")
        if not self._keeps or "connection: close" in lines:
            await self._close()

    async def _close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            with contextlib.suppress(OSError):
                await self._streams[1].wait_closed()
        self._streams = None


class Tally:
    def __init__(self) -> None:
        self.good = 0
        self.reopened = 0
        self.failures: list[dict[str, object]] = []

    def print(self) -> None:
        counts = {"good": self.good, "reopened": self.reopened, "failures": self.failures}
        sys.stdout.write(json.dumps(counts) + "\n")
        sys.stdout.flush()


async def main(host: str, port: int, expected: str) -> None:
    tally = Tally()
    pollers = [Poller((host, port), expected.encode(), tally, keeps=bool(n % 2)) for n in range(POLLERS)]
    tasks = []
    for poller in pollers:
        tasks.append(asyncio.create_task(poller.poll()))
        await asyncio.sleep(PAUSE_SECONDS / POLLERS)
    # Each line requests the counts. The end of the input ends the process.
    while line := await asyncio.to_thread(sys.stdin.readline):
        assert line == "\n"
        tally.print()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
