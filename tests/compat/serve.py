"""Serves instances with the configuration of the recorded nova, to replay recordings over a socket.

    .venv/bin/python tests/compat/serve.py --instances tests/compat/data/instances.json --config cache --port 18775

The file has nova's form with `metadata_proxy_shared_secret`, or the form of docs/guide/import.md (then use --secret).
Configurations: cache and nocache (signed), dynvd (signed, with dynamic vendor data that echo the request), direct
(identification by address; a loopback address is the instance marked `main`, or the first). Passwords are not kept.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import signal
import sys
import tempfile
from pathlib import Path

import structlog
import uvloop

if not __package__:  # run as a script: sys.path has only the folder of this file
    ROOT = Path(__file__).resolve().parents[2]
    sys.path[:1] = [str(ROOT), str(ROOT / "src")]

from tests.compat.stage import CONFIGS, Stage

from openimds.http.server.server import HttpServer, Listener
from openimds.http.sockets import ListenError, tcp_listener
from openimds.programs.metadata_api.worker import LIMITS
from openimds.resources.errors import OpenimdsError


async def serve(stage: Stage, config: str, port: int) -> None:
    """Serves until SIGTERM or SIGINT."""
    server = HttpServer(stage.service(config).handle)
    await server.start([Listener(socket=tcp_listener("127.0.0.1", port), tag="tcp", limits=LIMITS)])
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    print(f"serving {config} on 127.0.0.1:{port}", flush=True)  # noqa: T201 - the parent process waits for this line
    await stop.wait()
    await server.stop(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--instances", type=Path, required=True)
    parser.add_argument("--config", choices=CONFIGS, default="cache")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--secret", help="instead of the file's metadata_proxy_shared_secret")
    options = parser.parse_args()
    # A log that the parent process does not read would fill its pipe and block the server.
    errors_only = structlog.make_filtering_bound_logger(logging.ERROR)
    structlog.configure(wrapper_class=errors_only, logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    try:
        document = json.loads(options.instances.read_text())
        if options.secret is not None:
            document["metadata_proxy_shared_secret"] = options.secret
        if "metadata_proxy_shared_secret" not in document:
            parser.error(f"{options.instances} has no metadata_proxy_shared_secret: give --secret")
        with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            stage = Stage(Path(folder), document)
            try:
                runner.run(serve(stage, options.config, options.port))
            finally:
                stage.close()
    except (OSError, ValueError, OpenimdsError, ListenError) as error:
        sys.exit(f"{options.instances}: {error}")


if __name__ == "__main__":
    main()
