"""A Debian host with systemd as PID 1, which runs the commands of docs/guide/systemd.md."""

from __future__ import annotations

import io
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.system.clients.debian_guest import DebianGuest, debian_guest
from tests.system.cloud import BIN, run
from tests.waiting import INSTALL_SECONDS, until

from openimds import __version__

REPOSITORY = Path(__file__).parents[3]
ROOT_SCRIPT = REPOSITORY / "scripts" / "make-openimds-root"
GUIDE = REPOSITORY / "docs" / "guide" / "systemd.md"
CLONE = "/root/openimds"
NEXT_VERSION = "99.0.0"


@dataclass(frozen=True, slots=True)
class Host:
    guest: DebianGuest
    folder: Path
    """A folder of the test machine with a copy of the host's clouds.yaml."""

    def sh(self, script: str, *, check: bool = True) -> str:
        """Runs a root shell script in the clone. Returns stdout."""
        return self.guest.inside("bash", "-euc", f"cd {CLONE}\n{script}", check=check).stdout

    def follow(self, heading: str) -> str:
        """Runs the guide's commands under a heading. Returns stdout."""
        return self.sh(commands(heading))

    def write(self, path: str, content: bytes) -> None:
        with subprocess.Popen([*self.entered(), "sh", "-c", f"cat >{shlex.quote(path)}"], stdin=subprocess.PIPE) as put:
            put.communicate(content)
        assert put.returncode == 0

    def openstack(self, line: str) -> str:
        """Runs an `openstack` command line in the host's network namespace. Returns stdout."""
        env = {"PATH": f"{BIN}:/usr/bin", "OS_CLIENT_CONFIG_FILE": str(self.folder / "clouds.yaml")}
        argv = ["nsenter", f"--target={self.guest._init_pid()}", "--net", *shlex.split(f"openstack {line}")]
        return run(argv, env=env | {"OS_CLOUD": "openimds"}).stdout.strip()

    def entered(self, namespace: str = "") -> list[str]:
        """The argv that enters the host, before a command that uses standard input or output."""
        spaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root"]
        entered = [
            "nsenter",
            f"--target={self.guest._init_pid()}",
            *spaces,
            "env",
            "-i",
            "-C",
            "/",
            "PATH=/usr/sbin:/usr/bin",
        ]
        return [*entered, "ip", "netns", "exec", namespace] if namespace else entered

    def shown(self, unit: str, name: str) -> str:
        return self.sh(f"systemctl show --value -p {name} {unit}").strip()

    def children(self) -> frozenset[str]:
        """The processes that outlive an agent's restart, as `PID command`."""
        lines = self.sh("ps -eo pid,args --no-headers").splitlines()
        kinds = ("dnsmasq", "haproxy -f", "udhcpc", "busybox", "bwrap", "openimds-guest")
        return frozenset(" ".join(line.split()) for line in lines if any(kind in line for kind in kinds))

    def journal(self) -> str:
        return self.sh("journalctl --no-pager -o cat -u 'openimds-*' -n 200", check=False)


@contextmanager
def booted_host(folder: Path) -> Iterator[Host]:
    """Boots a host that contains a clone of this repository and a wheel."""
    root = Path(run([str(ROOT_SCRIPT)], timeout_seconds=INSTALL_SECONDS).stdout.strip())
    with debian_guest(root, folder / "console") as guest:
        guest._launched()
        guest.power_on()
        until(lambda: _has_booted(guest), "the host has booted")
        # A container has /proc/sys read-only. The agents set sysctls of namespaces. Remounted after the boot, which would set
        # the machine's sysctls.
        guest.inside("mount", "--options", "remount,bind,rw", "/proc/sys")
        host = Host(guest, folder)
        guest.inside("mkdir", CLONE)
        host.write("/root/clone.tar", _clone(folder))
        host.sh("tar --extract --file=/root/clone.tar")
        yield host


def commands(heading: str) -> str:
    """The `sh` blocks under a heading of the guide."""
    section = re.search(rf"(?ms)^## {re.escape(heading)}$(.*?)(?=^## |\Z)", GUIDE.read_text())
    assert section, f"the guide has no heading {heading}"
    found = re.findall(r"(?ms)^```sh\n(.*?)^```$", section[1])
    assert found, f"the guide has no commands under {heading}"
    return "\n".join(found)


def _has_booted(guest: DebianGuest) -> bool:
    try:
        return guest.inside("systemctl", "is-system-running", check=False).stdout.strip() in {"running", "degraded"}
    except LookupError:
        return False


def _clone(folder: Path) -> bytes:
    """A tar of the packaging and of the wheels: this version in `dist` and `this`, a later version in `next`."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        this = _wheel(folder / "this", __version__)
        tar.add(this, "dist")
        tar.add(this, "this")
        tar.add(_wheel(folder / "next", NEXT_VERSION), "next")
        tar.add(REPOSITORY / "packaging", "packaging")
    return packed.getvalue()


def _wheel(build: Path, version: str) -> Path:
    """Builds a wheel. Returns its folder."""
    shutil.copytree(REPOSITORY / "src", build / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, build / name)
    for name in ("pyproject.toml", "src/openimds/__init__.py"):
        file = build / name
        file.write_text(
            file.read_text()
            .replace(f'version__ = "{__version__}"', f'version__ = "{version}"')
            .replace(f'\nversion = "{__version__}"', f'\nversion = "{version}"')
        )
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "wheel"]
    run(
        [*pip, "--no-deps", "--no-build-isolation", "--wheel-dir", "dist", "."],
        cwd=build,
        timeout_seconds=INSTALL_SECONDS,
    )
    return build / "dist"
