"""A network as an instance sees it: a DHCP server, and an HTTP server at 169.254.169.254."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer

from tests.kernel.stage import Host

from openimds.linux.netns import netns
from openimds.linux.process.daemons import PidFileDaemons
from openimds.netconfig.namespace_state import Bridge, Daemon, Device, NamespaceState

SERVER_IP = "192.168.40.2"
USER_DATA = '#!/bin/sh\necho "user data says: $(hostname) $(id -u)"\n'
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 me@here"


def documents(name: str, user_data: str = USER_DATA) -> dict[str, str]:
    return {
        "/2009-04-04/meta-data/instance-id": "i-0000002a",
        "/2009-04-04/meta-data/hostname": f"{name}.novalocal",
        "/2009-04-04/meta-data/local-ipv4": "192.168.40.5",
        "/2009-04-04/meta-data/public-keys/": "0=mykey",
        "/2009-04-04/meta-data/public-keys/0/openssh-key": KEY + "\n",
        "/2009-04-04/user-data": user_data,
        "/openstack/latest/meta_data.json": "{}",
        "/openstack/latest/network_data.json": "{}",
    }


@dataclass
class MetadataStandIn:
    """An HTTP server in a namespace that responds from a table."""

    namespace: str
    answers: Mapping[str, str]
    asked: list[str] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[None]:
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                stand_in.asked.append(self.path)
                body = stand_in.answers.get(self.path, "").encode()
                self.send_response(200 if body else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                return

        server = HTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
        server.socket.close()
        server.socket = netns.run_in(self.namespace, _listener)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def _listener() -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("169.254.169.254", 80))
    listener.listen(100)
    return listener


def serve_dhcp(host: Host, *, bridge: str, leases: Mapping[str, str]) -> str:
    """Starts dnsmasq with option 121 in a namespace of its own. `leases` maps MAC to IP. Returns the namespace's name."""
    device = Device(
        name="dhcp0",
        host_name=host.tap(9),
        bridge=bridge,
        mac_address="fa:16:3e:99:99:99",
        mtu=1442,
        addresses=frozenset({f"{SERVER_IP}/24", "169.254.169.254/32"}),
    )
    host.kernel.ensure_bridge(Bridge(name=bridge, mtu=1442))
    namespace = host.namespace("qdhcp-n")
    host.kernel.apply(NamespaceState(name=namespace, devices=(device,)))
    folder = host.state_path / "dhcp"
    folder.mkdir()
    argv = [
        "dnsmasq",
        "--no-hosts",
        "--no-resolv",
        "--port=0",
        "--pid-file=" + str(folder / "pid"),
        "--dhcp-leasefile=" + str(folder / "leases"),
        "--dhcp-range=192.168.40.0,static",
        "--dhcp-option=option:mtu,1400",
        "--dhcp-option=option:dns-server,192.168.40.3",
        f"--dhcp-option=option:classless-static-route,169.254.169.254/32,{SERVER_IP},0.0.0.0/0,192.168.40.1",
        *(f"--dhcp-host={mac},{address}" for mac, address in leases.items()),
        "--bind-interfaces",
        "--conf-file=/dev/null",
    ]
    PidFileDaemons().start(Daemon(name="dnsmasq", argv=tuple(argv), pid_file=folder / "pid", namespace=namespace))
    return namespace
