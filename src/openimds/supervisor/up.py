"""`openimds up`: preflight checks, the store, the supervisor of all parts, and the background mode (`--detach`)."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import secrets
import shutil
import socket
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TextIO, cast

import yaml
from prettytable import PrettyTable, TableStyle

from openimds.client.store_guard import forget_store, has_records
from openimds.config import ControlApiConfig, Listen, LogConfig
from openimds.config.settings import AgentConfig
from openimds.linux.configure.cleanup import TABLE_FAMILIES
from openimds.linux.firewall.iptables import nft_list
from openimds.linux.firewall.notrack import table_name
from openimds.linux.netns_driver.driver import directories_of_instances
from openimds.linux.process import identity
from openimds.resources.errors import OpenimdsError
from openimds.runtime import log_config, sd_notify
from openimds.runtime.lifecycle import StartupError
from openimds.store import schema
from openimds.store.bootstrap import bootstrap
from openimds.store.engine import Store, utc_now
from openimds.supervisor import default_config, down
from openimds.supervisor.default_config import CLOUD
from openimds.supervisor.plan import Plan, UpOptions, plan
from openimds.supervisor.service_spec import START_ORDER
from openimds.supervisor.state_dir import StateDir
from openimds.supervisor.supervisor import Supervisor

DEBIAN_PACKAGE: Mapping[str, str] = {
    "bwrap": "bubblewrap",
    "busybox": "busybox-static",
    "conntrack": "conntrack",
    "curl": "curl",
    "dhcp_release": "dnsmasq-utils",
    "dnsmasq": "dnsmasq-base",
    "haproxy": "haproxy",
    "ip": "iproute2",
    "ip6tables-restore": "iptables",
    "iptables-restore": "iptables",
    "mkfs.ext4": "e2fsprogs",
    "nft": "nftables",
    "radvd": "radvd",
}
"""The Debian package of each program that the agents run."""

SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def preflight_problems(
    *, effective_uid: int | None = None, which: Callable[[str], str | None] | None = None
) -> tuple[str, ...]:
    """Checks for root and the required programs. Each problem is a sentence with its remedy."""
    if (os.geteuid() if effective_uid is None else effective_uid) != 0:
        return ("openimds up creates network namespaces, which requires root: run it as root or with sudo",)
    find = which or (lambda program: shutil.which(program, path=f"{os.environ.get('PATH', '')}:{SEARCH_PATH}"))
    missing = {program for program in DEBIAN_PACKAGE if find(program) is None}
    return (_missing(missing),) if missing else ()


def _missing(programs: Iterable[str]) -> str:
    names = sorted(programs)
    packages = sorted({DEBIAN_PACKAGE[name] for name in names})
    verb = "is" if len(names) == 1 else "are"
    return (
        f"{', '.join(names)} {verb} not installed: run `apt-get install --no-install-recommends {' '.join(packages)}`"
    )


def taken_ports(listeners: Mapping[str, Listen]) -> tuple[str, ...]:
    """Checks that the address of each part can be bound. Each problem is a sentence with its remedy."""
    return tuple(sentence for part, listen in listeners.items() if (sentence := _taken(part, listen)))


def _taken(part: str, listen: Listen) -> str | None:
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        where = f"{listen.host}:{listen.port}"
        if error.errno == errno.EADDRINUSE:
            option = {"control-api": "--control-port", "metadata-api": "--metadata-port"}.get(part)
            other = f" or choose another with {option}" if option else ""
            return f"{part} cannot listen on {where}: the port is taken by another program; stop that{other}"
        if error.errno == errno.EADDRNOTAVAIL:
            return (
                f"{part} cannot listen on {where}: this machine does not have the address {listen.host} (see "
                "`ip address`); choose another with --listen"
            )
        return f"{part} cannot listen on {where}: {(error.strerror or str(error)).lower()}"
    return None


READY_MARK = "\0"
"""The last line on the pipe after a successful start. A pipe that ends with any other line means a failed start."""

Echo = Callable[[str], None]


def run_in_background(work: Callable[[Echo, Callable[[], None]], int]) -> int:
    """Runs `work(echo, on_ready)` in a child process and session, until it calls `on_ready` or ends.

    The lines that `work` passes to `echo` are printed by the parent. Returns 0 after `on_ready`, or else the exit code.
    """
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        # os._exit, so that the child does not return into the caller's code.
        os._exit(_in_child(work, write_end))
    os.close(write_end)
    with os.fdopen(read_end, encoding="utf-8", errors="replace") as lines:
        text = ""
        for line in lines:
            text = line
            print(line.removesuffix(READY_MARK + "\n"), end="", flush=True)  # noqa: T201 - output of the command
    if text.endswith(READY_MARK + "\n"):
        return 0
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) or 1


def _in_child(work: Callable[[Echo, Callable[[], None]], int], write_end: int) -> int:
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    channel = os.fdopen(write_end, "w", encoding="utf-8")

    def echo(text: str) -> None:
        if not channel.closed:
            print(text, file=channel, flush=True)

    def on_ready() -> None:
        echo(READY_MARK)
        channel.close()
        sys.stdout.flush()

    try:
        return work(echo, on_ready)
    except BaseException as error:  # noqa: BLE001 - this is the outermost frame of the process
        echo(f"{type(error).__name__}: {error}")
        return 1


def up(options: UpOptions, echo: Echo, on_ready: Callable[[], None]) -> None:
    """Starts all parts, runs them until a signal, then stops them and removes their resources.

    `echo` shows a line to the operator. `on_ready` is called when all parts are ready. Raises StartupError.
    """
    for problem in preflight_problems():
        raise StartupError(problem)
    folder = StateDir(options.state_dir.absolute())
    folder.prepare()
    with folder.locked():
        log_config.configure(LogConfig(debug=options.debug, format="console"), "up", _log_stream(options, folder))
        supervise(plan(options, folder), folder, echo, on_ready)


def supervise(planned: Plan, folder: StateDir, echo: Echo, on_ready: Callable[[], None]) -> None:
    """Runs the plan until a signal requests a stop."""
    _check_prefix_unused(folder, planned.configs["compute-agent"].namespace_prefix)
    supervisor = Supervisor(planned.specs, folder, echo)
    this = identity.current()
    identity.write_pid_file(this, folder.supervisor_pid_file)
    try:
        with supervisor.handling_signals():
            adopted = supervisor.adopt()
            _prepare_store(planned, folder, adopted)
            try:
                supervisor.start(START_ORDER)
                if not supervisor.is_stopping:
                    echo(start_report(supervisor.report(), folder))
                    on_ready()
                    sd_notify.send("READY=1")
                    supervisor.run()
                echo("stopping")
            finally:
                supervisor.stop(START_ORDER)
                down.remove_agent_resources(folder, planned.configs["compute-agent"].namespace_prefix)
        echo(f"everything is down; the state is kept in {folder.path}")
    finally:
        supervisor.close()
        folder.supervisor_pid_file.unlink(missing_ok=True)


def _check_prefix_unused(folder: StateDir, prefix: str) -> None:
    """Raises StartupError if another openimds on this machine uses the same namespace prefix.

    Two systems with the same prefix would remove each other's firewall tables. An existing table belongs to another
    system if the last run of this folder ended cleanly.
    """
    unfinished = [part for part in folder.read_status().get("parts", []) if part.get("state") != "stopped"]
    name = table_name(prefix)
    families = [family for family in TABLE_FAMILIES if nft_list(family, name) is not None]
    if families and not unfinished:
        raise StartupError(
            f"another openimds seems to run on this machine with the same namespace prefix ({prefix or 'none'}): the "
            f"firewall table `{families[0]} {name}` exists. Choose another prefix with --namespace-prefix. If nothing "
            f"else runs, remove the table with `nft delete table {families[0]} {name}`"
        )


def start_report(report: Sequence[Mapping[str, object]], folder: StateDir) -> str:
    """The text that `up` prints when all parts are ready."""
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
    """Checks the ports of parts that do not run, and prepares the tables, users and clouds.yaml. Raises StartupError."""
    new = {name: listen for name, listen in planned.listeners.items() if name not in adopted}
    for problem in taken_ports(new):
        raise StartupError(problem)
    _check_for_lost_store(planned.control.database_url, folder)
    admin_password = _admin_password(planned.control, folder)
    try:
        _fill_store(planned, admin_password)
    except OpenimdsError as error:
        raise StartupError(error.message) from error


def _check_for_lost_store(database_url: str, folder: StateDir) -> None:
    """Raises StartupError if the database is empty and this host has instances of an earlier one."""
    store = Store(database_url)
    try:
        if not schema.is_empty(store):
            return
    except OpenimdsError as error:
        raise StartupError(error.message) from error
    finally:
        store.close()
    instances = directories_of_instances(folder.path / "instances")
    if instances and has_records(folder.path):
        raise StartupError(
            f"the database is empty, and {folder.path / 'instances'} has {len(instances)} instances of an earlier one: "
            f"restore the database, or give these instances up with `{folder.command('host adopt')}` and start again"
        )
    forget_store(folder.path)


def _fill_store(planned: Plan, admin_password: str) -> None:
    service = planned.configs["compute-agent"]
    assert isinstance(service, AgentConfig)
    store = Store(planned.control.database_url)
    if store.is_sqlite and store.url.database:
        # The file holds user data and password hashes. The write-ahead log gets the same mode.
        Path(store.url.database).touch(mode=0o600)
    try:
        schema.upgrade(store)
        bootstrap(store, admin_password, service.auth.password, planned.control.images_dir, utc_now())
    finally:
        store.close()


def _admin_password(control: ControlApiConfig, folder: StateDir) -> str:
    """Returns the password in clouds.yaml. Creates the file if it is missing, and updates its auth_url otherwise."""
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
            f"{folder.clouds_file} does not hold the password of the cloud `{CLOUD}`: repair it, or remove it to get "
            "a new file with a new password"
        ) from error
    changed = default_config.with_auth_url(text, auth_url)
    if changed != text:
        folder.write_secret_file("clouds.yaml", changed)
    return password


def _log_stream(options: UpOptions, folder: StateDir) -> TextIO:
    """The stream of the supervisor's log. It writes to the log file, and also to the terminal unless it is detached."""
    file = folder.log_file("supervisor").open("a", encoding="utf-8")
    if not options.detached:
        return cast("TextIO", _Tee(sys.stderr, file))
    os.dup2(file.fileno(), 2)
    return file


class _Tee(io.TextIOBase):
    """A text stream that writes to several others. A full disk or a closed terminal does not stop the others."""

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
