"""`openimds up` and `openimds down`: all parts on one machine, and none of them any more."""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TextIO, cast

import yaml
from prettytable import PrettyTable, TableStyle

from openimds.config import ControlApiConfig, LogConfig
from openimds.config.settings import AgentConfig
from openimds.linux.configure.cleanup import TABLE_FAMILIES
from openimds.linux.firewall.iptables import nft_list
from openimds.linux.firewall.notrack import table_name
from openimds.linux.process import identity
from openimds.resources.errors import OpenimdsError
from openimds.runtime import log_config, sd_notify
from openimds.runtime.lifecycle import StartupError
from openimds.store import schema
from openimds.store.bootstrap import bootstrap
from openimds.store.engine import Store, utc_now
from openimds.supervisor import default_config, down, preflight
from openimds.supervisor.default_config import CLOUD
from openimds.supervisor.plan import Plan, UpOptions, plan
from openimds.supervisor.service_spec import START_ORDER
from openimds.supervisor.state_dir import StateDir
from openimds.supervisor.supervisor import Supervisor

Say = Callable[[str], None]


def up(options: UpOptions, say: Say, serving: Callable[[], None]) -> None:
    """Bring everything up, keep it up until a signal, and take all of it away again.

    `say` shows a line to the person; `serving` is called when all parts are ready. Raises CannotStartError.
    """
    for problem in preflight.problems():
        raise StartupError(problem)
    folder = StateDir(options.state_dir.absolute())
    folder.prepare()
    with folder.locked():
        log_config.configure(LogConfig(debug=options.debug, format="console"), "up", _log_stream(options, folder))
        supervise(plan(options, folder), folder, say, serving)


def supervise(planned: Plan, folder: StateDir, say: Say, serving: Callable[[], None]) -> None:
    """Run the plan until a signal asks to stop."""
    _refuse_a_neighbour(folder, planned.configs["compute-agent"].namespace_prefix)
    supervisor = Supervisor(planned.parts, folder, say)
    this = identity.current()
    identity.write_pid_file(this, folder.supervisor_pid_file)
    try:
        with supervisor.heeding_signals():
            adopted = supervisor.adopt()
            _prepare_store(planned, folder, adopted)
            try:
                supervisor.start(START_ORDER)
                if not supervisor.stop_asked:
                    say(start_report(supervisor.report(), folder))
                    serving()
                    sd_notify.send("READY=1")
                    supervisor.run()
                say("stopping …")
            finally:
                supervisor.stop(START_ORDER)
                down.remove_what_agents_made(folder, planned.configs["compute-agent"].namespace_prefix)
        say("everything is down; the state is kept in " + str(folder.path))
    finally:
        supervisor.close()
        folder.supervisor_pid_file.unlink(missing_ok=True)


def _refuse_a_neighbour(folder: StateDir, prefix: str) -> None:
    """Two systems on one machine are kept apart by their prefixes: without one they would take away each other's
    firewall tables. A table that is there, while this folder's last system ended cleanly, is somebody else's.
    """
    left = [part for part in folder.read_status().get("parts", []) if part.get("state") != "stopped"]
    name = table_name(prefix)
    there = [family for family in TABLE_FAMILIES if nft_list(family, name) is not None]
    if there and not left:
        raise StartupError(
            f"another openimds seems to run on this machine with the same namespace prefix ({prefix or 'none'}): the "
            f"firewall table `{there[0]} {name}` is there. Choose another prefix with --namespace-prefix; if nothing "
            f"else runs, remove it with `nft delete table {there[0]} {name}`"
        )


def start_report(report: Sequence[Mapping[str, object]], folder: StateDir) -> str:
    """What is told when everything runs."""
    table = PrettyTable(["part", "pid", "listens on", "log"])
    table.set_style(TableStyle.PLAIN_COLUMNS)
    table.align = "l"
    table.right_padding_width = 2
    for part in report:
        table.add_row([part["name"], part["pid"], part["listens"], part["log"]])
    return (
        f"openimds is up in {folder.path}\n\n{table.get_string()}\n\n"
        f"To use it:\n  export OS_CLIENT_CONFIG_FILE={folder.clouds_file} OS_CLOUD={CLOUD}\n"
        f"  openstack network list\n"
    )


# The store -------------------------------------------------------------------------------------------------------


def _prepare_store(planned: Plan, folder: StateDir, adopted: Sequence[str]) -> None:
    """Ports, tables, first users, clouds.yaml. Raises CannotStartError."""
    free = {name: listen for name, listen in planned.listeners.items() if name not in adopted}
    for problem in preflight.taken_ports(free):
        raise StartupError(problem)
    admin_password = _admin_password(planned.control, folder)
    try:
        _fill_store(planned, admin_password)
    except OpenimdsError as error:
        raise StartupError(error.message) from error


def _fill_store(planned: Plan, admin_password: str) -> None:
    service = planned.configs["compute-agent"]
    assert isinstance(service, AgentConfig)
    store = Store(planned.control.database_url)
    if store.is_sqlite and store.url.database:
        # It holds user data and password hashes; the write-ahead log takes its mode.
        Path(store.url.database).touch(mode=0o600)
    try:
        schema.upgrade(store)
        bootstrap(store, admin_password, service.auth.password, planned.control.images_dir, utc_now())
    finally:
        store.close()


def _admin_password(control: ControlApiConfig, folder: StateDir) -> str:
    """The password in clouds.yaml, which is written if there is none; its auth_url is kept right."""
    auth_url = f"{control.public_url}/v3"
    if not folder.clouds_file.exists():
        password = secrets.token_urlsafe(18)
        folder.write_secret_file("clouds.yaml", default_config.clouds_yaml(auth_url, password, control.region))
        return password
    text = folder.clouds_file.read_text()
    try:
        password = str(yaml.safe_load(text)["clouds"][CLOUD]["auth"]["password"])
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise StartupError(
            f"{folder.clouds_file} does not hold the password of the cloud `{CLOUD}`: repair it, or remove it to have "
            "one with a new password written"
        ) from error
    changed = default_config.with_auth_url(text, auth_url)
    if changed != text:
        folder.write_secret_file("clouds.yaml", changed)
    return password


def _log_stream(options: UpOptions, folder: StateDir) -> TextIO:
    """Where the supervisor logs: its log file, and the terminal if there is one."""
    file = folder.log_file("supervisor").open("a", encoding="utf-8")
    if not options.detached:
        return cast("TextIO", _Both(sys.stderr, file))
    os.dup2(file.fileno(), 2)
    return file


class _Both(io.TextIOBase):
    """A text stream to two others; a full disk or a closed terminal ends neither."""

    def __init__(self, *streams: TextIO) -> None:
        self._streams = streams

    def write(self, text: str) -> int:
        for stream in self._streams:
            with contextlib.suppress(OSError, ValueError):
                stream.write(text)
                stream.flush()
        return len(text)

    def isatty(self) -> bool:
        return False
