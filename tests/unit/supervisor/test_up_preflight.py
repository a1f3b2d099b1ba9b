from __future__ import annotations

import socket

from openimds.config import Listen
from openimds.supervisor import up


def test_missing_root_is_a_problem() -> None:
    (problem,) = up.preflight_problems(effective_uid=1000)
    assert "as root" in problem


def test_missing_programs_are_listed_with_their_packages() -> None:
    found = {"ip", "nft", "curl", "bwrap", "radvd", "conntrack"}
    (problem,) = up.preflight_problems(effective_uid=0, which=lambda name: f"/bin/{name}" if name in found else None)
    assert problem.startswith("busybox, dhcp_release, dnsmasq, haproxy")
    assert "`apt-get install --no-install-recommends" in problem
    assert "dnsmasq-base" in problem
    assert up.preflight_problems(effective_uid=0, which=lambda name: f"/bin/{name}") == ()


def test_taken_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (problem,) = up.taken_ports({"control-api": Listen("127.0.0.1", port)})
        assert f"control-api cannot listen on 127.0.0.1:{port}: the port is taken" in problem
        assert "--control-port" in problem
    assert up.taken_ports({"control-api": Listen("127.0.0.1", port)}) == ()


def test_foreign_address_is_named() -> None:
    (problem,) = up.taken_ports({"metadata-api": Listen("192.0.2.1", 8775)})
    assert "metadata-api cannot listen on 192.0.2.1:8775: this machine does not have the address 192.0.2.1" in problem
    assert "choose another with --listen" in problem
