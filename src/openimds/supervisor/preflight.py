"""What this machine must have before `openimds up` begins: each thing missing is one sentence that says what to do."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Callable, Iterable, Mapping

from openimds.config import Listen

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
    "nft": "nftables",
    "radvd": "radvd",
}
"""Program → the Debian package that brings it."""

SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def problems(*, effective_uid: int | None = None, which: Callable[[str], str | None] | None = None) -> tuple[str, ...]:
    """Sentences; none: this machine has what is needed."""
    if (os.geteuid() if effective_uid is None else effective_uid) != 0:
        return ("openimds up makes network namespaces, which takes root: run it again as root, or with sudo",)
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
    """A sentence for each part (name → where it is to listen) whose address and port cannot be had."""
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
                f"{part} cannot listen on {where}: {listen.host} is no address of this machine (`ip address` shows those); "
                "choose another with --listen"
            )
        return f"{part} cannot listen on {where}: {(error.strerror or str(error)).lower()}"
    return None
