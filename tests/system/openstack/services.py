"""Keystone, neutron-server and nova-api-metadata of an OpenStack release, with a MariaDB and a RabbitMQ of their own.

Everything listens on loopback and is below one folder. The programs belong to the environment of `scripts/make-openstack`.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.ports import free_ports
from tests.waiting import INSTALL_SECONDS, until

ADMIN_PASSWORD = "ADMIN_PASS"
SECRET = "SECRET_KEY"
DATABASES = ("keystone", "neutron", "nova_api", "nova_cell0", "nova_cell1")
MARIADBD = "/usr/sbin/mariadbd"
RABBITMQ = "/usr/lib/rabbitmq/bin/rabbitmq-server"


def missing_packages() -> str:
    """The programs that are not installed. Empty if the tests can run."""
    wanted = (MARIADBD, RABBITMQ, "/usr/bin/mariadb-install-db")
    return ", ".join(program for program in wanted if not Path(program).exists())


@dataclass
class OpenStack:
    """The processes and files below `folder`."""

    folder: Path
    environment: Path
    """The virtual environment with the programs of OpenStack."""
    ports: dict[str, int]
    neutron_url: str = ""
    """The address of Neutron in the catalog. Set before `populate`."""
    _running: ExitStack = field(default_factory=ExitStack)

    def program(self, name: str) -> str:
        return str(self.environment / "bin" / name)

    @property
    def auth_url(self) -> str:
        return f"http://127.0.0.1:{self.ports['keystone']}/v3"

    @property
    def transport_url(self) -> str:
        return f"rabbit://guest:guest@127.0.0.1:{self.ports['rabbitmq']}/"

    def database(self, name: str) -> str:
        return f"mysql+pymysql://os:os@127.0.0.1:{self.ports['mariadb']}/{name}?charset=utf8mb3"

    def log(self, name: str) -> str:
        path = self.folder / "log" / name
        return path.read_text(errors="replace")[-3000:] if path.exists() else ""

    def run(self, *argv: str, log: str) -> None:
        """Runs a program to its end. Raises AssertionError with the end of its log."""
        with (self.folder / "log" / log).open("ab") as output:
            done = subprocess.run(
                argv, stdout=output, stderr=output, timeout=INSTALL_SECONDS, check=False, cwd=self.folder
            )
        assert done.returncode == 0, f"{argv[0]} failed:\n{self.log(log)}"

    def spawn(
        self, *argv: str, log: str, user: str | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Starts a program that ends with the cloud."""
        with (self.folder / "log" / log).open("ab") as output:
            process = subprocess.Popen(
                argv, stdout=output, stderr=output, env={**os.environ, **(env or {})}, user=user, cwd=self.folder
            )
        self._running.callback(_end, process)
        return process

    def close(self) -> None:
        self._running.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def openstack(folder: Path, environment: Path) -> Iterator[OpenStack]:
    """Starts the services. Their databases are empty except for Keystone's administrator."""
    names = ("mariadb", "rabbitmq", "rabbitmq_dist", "epmd", "keystone", "neutron", "nova")
    cloud = OpenStack(folder, environment, dict(zip(names, free_ports(len(names)), strict=True)))
    for name in ("log", "etc", "run", "lock", "mq", "state"):
        (folder / name).mkdir()
    try:
        _start_mariadb(cloud)
        _start_rabbitmq(cloud)
        _write_configuration(cloud)
        _create_tables(cloud)
        _start_services(cloud)
        yield cloud
    finally:
        cloud.close()


def _start_mariadb(cloud: OpenStack) -> None:
    data = cloud.folder / "mysql"
    data.mkdir()
    shutil.chown(data, "mysql", "mysql")
    cloud.run(
        "mariadb-install-db", "--user=mysql", f"--datadir={data}", "--auth-root-authentication-method=normal",
        log="mariadb-install",
    )  # fmt: skip
    socket_path = str(data / "s")
    cloud.spawn(
        MARIADBD, "--no-defaults", "--user=mysql", f"--datadir={data}", f"--socket={socket_path}",
        "--bind-address=127.0.0.1", f"--port={cloud.ports['mariadb']}", f"--pid-file={data / 'pid'}",
        "--max-connections=500", "--innodb-flush-log-at-trx-commit=0", "--skip-log-bin",
        "--character-set-server=utf8mb3", log="mariadb",
    )  # fmt: skip
    until(lambda: _sql(socket_path, "select 1"), lambda: f"MariaDB starts: {cloud.log('mariadb')}")
    for name in DATABASES:
        grants = [f"grant all on {name}.* to 'os'@'{host}' identified by 'os'" for host in ("127.0.0.1", "localhost")]
        assert _sql(socket_path, "; ".join([f"create database {name}", *grants]))


def _sql(socket_path: str, statement: str) -> bool:
    done = subprocess.run(
        ["mariadb", "-S", socket_path, "-uroot", "-e", statement], capture_output=True, check=False, timeout=60
    )
    return done.returncode == 0


def _start_rabbitmq(cloud: OpenStack) -> None:
    home = cloud.folder / "mq"
    (home / "plugins").write_text("[].")
    (home / "rabbitmq.conf").write_text("loopback_users = none\n")
    for path in (home, *home.iterdir()):
        shutil.chown(path, "rabbitmq", "rabbitmq")
    env = {
        "RABBITMQ_NODENAME": f"openimds{cloud.ports['rabbitmq']}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(cloud.ports["rabbitmq"]),
        "RABBITMQ_DIST_PORT": str(cloud.ports["rabbitmq_dist"]),
        "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
        "RABBITMQ_LOG_BASE": str(home / "log"),
        "RABBITMQ_PID_FILE": str(home / "pid"),
        "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "plugins"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none",
        "ERL_EPMD_PORT": str(cloud.ports["epmd"]),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "HOME": str(home),
    }
    # The port mapper of Erlang would otherwise start as a daemon of its own and outlive the cloud.
    cloud.spawn("epmd", "-relaxed_command_check", log="epmd", user="rabbitmq", env=env)
    cloud.spawn(RABBITMQ, log="rabbitmq", user="rabbitmq", env=env)
    until(lambda: _listens(cloud.ports["rabbitmq"]), lambda: f"RabbitMQ starts: {cloud.log('rabbitmq')}")


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _write_configuration(cloud: OpenStack) -> None:
    etc, lock = cloud.folder / "etc", cloud.folder / "lock"
    login = f"""
auth_url = {cloud.auth_url}
auth_type = password
project_name = service
user_domain_name = Default
project_domain_name = Default
"""
    (etc / "keystone.conf").write_text(f"""\
[database]
connection = {cloud.database("keystone")}
[token]
provider = fernet
[fernet_tokens]
key_repository = {etc / "fernet"}
[fernet_receipts]
key_repository = {etc / "fernet"}
[credential]
key_repository = {etc / "credential"}
[security_compliance]
lockout_failure_attempts = 3
""")
    (etc / "neutron.conf").write_text(f"""\
[DEFAULT]
state_path = {cloud.folder / "state"}
core_plugin = ml2
service_plugins = router
transport_url = {cloud.transport_url}
api_paste_config = {cloud.environment / "etc/neutron/api-paste.ini"}
notify_nova_on_port_status_changes = false
notify_nova_on_port_data_changes = false
[database]
connection = {cloud.database("neutron")}
[keystone_authtoken]{login}username = neutron
password = NEUTRON_PASS
[oslo_concurrency]
lock_path = {lock}
[oslo_messaging_notifications]
driver = messagingv2
""")
    (etc / "ml2.ini").write_text("""\
[ml2]
type_drivers = local,vxlan
tenant_network_types = vxlan
project_network_types = vxlan
mechanism_drivers = openvswitch
extension_drivers = port_security
[ml2_type_vxlan]
vni_ranges = 1:1000
""")
    shutil.copy(cloud.environment / "etc/nova/api-paste.ini", etc / "nova-api-paste.ini")
    (etc / "nova.conf").write_text(f"""\
[DEFAULT]
host = peerhost
state_path = {cloud.folder / "state"}
transport_url = fake://
[api_database]
connection = {cloud.database("nova_api")}
[database]
connection = {cloud.database("nova_cell1")}
[neutron]{login}username = nova
password = NOVA_PASS
region_name = RegionOne
service_metadata_proxy = true
metadata_proxy_shared_secret = {SECRET}
[wsgi]
api_paste_config = {etc / "nova-api-paste.ini"}
[oslo_concurrency]
lock_path = {lock}
""")


def _create_tables(cloud: OpenStack) -> None:
    etc = cloud.folder / "etc"
    keystone = (cloud.program("keystone-manage"), "--config-file", str(etc / "keystone.conf"))
    for name in ("fernet", "credential"):
        (etc / name).mkdir()
    cloud.run(*keystone, "db_sync", log="tables")
    for kind in ("fernet_setup", "credential_setup"):
        cloud.run(*keystone, kind, "--keystone-user", "root", "--keystone-group", "root", log="tables")
    urls = [f"--bootstrap-{name}-url={cloud.auth_url}/" for name in ("admin", "internal", "public")]
    cloud.run(
        *keystone, "bootstrap", "--bootstrap-password", ADMIN_PASSWORD, *urls, "--bootstrap-region-id", "RegionOne",
        log="tables",
    )  # fmt: skip
    files = ("--config-file", str(etc / "neutron.conf"), "--config-file", str(etc / "ml2.ini"))
    cloud.run(cloud.program("neutron-db-manage"), *files, "upgrade", "heads", log="tables")
    nova = (cloud.program("nova-manage"), "--config-file", str(etc / "nova.conf"))
    cells = ("--database_connection", cloud.database("nova_cell1"), "--transport-url", "fake://")
    for command in (
        ("api_db", "sync"),
        ("cell_v2", "map_cell0", "--database_connection", cloud.database("nova_cell0")),
        ("db", "sync"),
        ("cell_v2", "create_cell", "--name", "cell1", *cells),
    ):
        cloud.run(*nova, *command, log="tables")


def _start_services(cloud: OpenStack) -> None:
    etc = cloud.folder / "etc"
    _wsgi(
        cloud, "keystone", "keystone.wsgi.api:application",
        [f"env = OS_KEYSTONE_CONFIG_DIR={etc}", f"env = OS_KEYSTONE_CONFIG_FILES={etc / 'keystone.conf'}"],
    )  # fmt: skip
    _wsgi(
        cloud, "neutron", "neutron.wsgi.api:application",
        [
            f"pyargv = --config-file {etc / 'neutron.conf'} --config-file {etc / 'ml2.ini'}",
            f"env = OS_NEUTRON_CONFIG_DIR={etc}", "env = OS_NEUTRON_CONFIG_FILES=neutron.conf;ml2.ini", "start-time = %t",
        ],
    )  # fmt: skip
    _wsgi(
        cloud, "nova", "nova.wsgi.metadata:application",
        [f"env = OS_NOVA_CONFIG_DIR={etc}", "env = OS_NOVA_CONFIG_FILES=nova-api-paste.ini;nova.conf"],
    )  # fmt: skip
    for name, path in (("keystone", "/v3"), ("neutron", "/v2.0/"), ("nova", "/")):
        url = f"http://127.0.0.1:{cloud.ports[name]}{path}"
        until(partial(_responds, url), partial(cloud.log, name))


def _wsgi(cloud: OpenStack, name: str, module: str, options: Sequence[str]) -> None:
    """Starts one service under uWSGI, with two processes."""
    file = cloud.folder / "etc" / f"uwsgi-{name}.ini"
    lines = [
        "[uwsgi]", f"module = {module}", f"virtualenv = {cloud.environment}", f"chdir = {cloud.folder}",
        f"http-socket = 127.0.0.1:{cloud.ports[name]}", "add-header = Connection: close", "buffer-size = 65535",
        "master = true", "enable-threads = true", "processes = 2", "threads = 1", "thunder-lock = true",
        "lazy-apps = true", "no-orphans = true", "die-on-term = true", "need-app = true", "listen = 100", *options,
    ]  # fmt: skip
    file.write_text("\n".join(lines) + "\n")
    cloud.spawn(cloud.program("uwsgi"), "--ini", str(file), log=name)


def _responds(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=10).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
