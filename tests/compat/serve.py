"""Serve instances as the recorded nova did, for replaying recordings over a socket by hand or by another program.

    python -m tests.compat.serve --instances tests/compat/data/instances.json --config cache --port 18775

Configs: cache and nocache (signed), dynvd (signed, dynamic vendor data that echoes), direct (known by address: loopback
is the main instance). Passwords are forgotten at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import tempfile
from pathlib import Path

import uvloop
from tests.compat.stage import CONFIGS, Stage

from openimds.daemons.guest_worker import LIMITS
from openimds.http.listen import tcp_listener
from openimds.http.server import GuestServer, Listener


async def serve(stage: Stage, config: str, port: int) -> None:
    """Until SIGTERM or SIGINT."""
    server = GuestServer(stage.service(config).handle)
    await server.start([Listener(socket=tcp_listener("127.0.0.1", port), tag="tcp", limits=LIMITS)])
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    print(f"serving {config} on 127.0.0.1:{port}", flush=True)  # noqa: T201 - what whoever started it waits for
    await stop.wait()
    await server.stop(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--instances", type=Path, required=True)
    parser.add_argument("--config", choices=CONFIGS, default="cache")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(Path(folder), json.loads(options.instances.read_text()))
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(serve(stage, options.config, options.port))
        finally:
            stage.close()


if __name__ == "__main__":
    main()
