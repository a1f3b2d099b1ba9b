"""The metadata agent's unix sockets after a restart: inherited sockets are used if they are still bound at their paths."""

from __future__ import annotations

import socket
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from openimds.config import MetadataAgentConfig, load_metadata_agent
from openimds.http.sockets import is_bound_at
from openimds.programs.metadata_agent.sockets import AgentSockets, open_sockets
from openimds.runtime.fdstore import FdStore
from openimds.runtime.lifecycle import StartupError


@pytest.fixture
def config(tmp_path: Path) -> MetadataAgentConfig:
    file = tmp_path / "agent.ini"
    file.write_text(
        f"[DEFAULT]\nstate_path = {tmp_path}\nmetadata_proxy_shared_secret = s\n"
        "[keystone_authtoken]\nauth_url = http://127.0.0.1:5000/v3\nusername = u\npassword = p\n"
    )
    return load_metadata_agent([str(file)])


@pytest.fixture
def before(config: MetadataAgentConfig) -> Iterator[AgentSockets]:
    """The sockets of a process that has ended. The service manager has copies of them."""
    sockets = open_sockets(config, FdStore({}, ""))
    sockets.guests.listen()
    yield sockets
    close(sockets)


def close(sockets: AgentSockets) -> None:
    sockets.guests.close()
    sockets.haproxy_log.close()


def inherited_from(sockets: AgentSockets) -> FdStore:
    return FdStore(
        {"metadata_proxy": [sockets.guests.dup()], "haproxy_log": [sockets.haproxy_log.dup()]}, notify_address=""
    )


def test_inherited_sockets_keep_their_queues(config: MetadataAgentConfig, before: AgentSockets) -> None:
    with (
        socket.socket(socket.AF_UNIX) as guest,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as proxy,
    ):
        guest.connect(str(config.socket_path))
        proxy.sendto(b"line", str(config.haproxy_log_socket))
        current = open_sockets(replace(config, socket_mode="all"), inherited_from(before))
        accepted, _ = current.guests.accept()
        accepted.close()
        assert current.haproxy_log.recv(100) == b"line"
    assert stat.S_IMODE(config.socket_path.stat().st_mode) == 0o666
    close(current)


def test_socket_without_its_file_is_created_again(config: MetadataAgentConfig, before: AgentSockets) -> None:
    config.socket_path.unlink()
    current = open_sockets(config, inherited_from(before))
    current.guests.listen()
    assert is_bound_at(current.guests, config.socket_path)
    assert not is_bound_at(before.guests, config.socket_path)
    assert is_bound_at(current.haproxy_log, config.haproxy_log_socket)
    close(current)


def test_socket_of_another_process_at_the_path_is_a_startup_error(
    config: MetadataAgentConfig, before: AgentSockets
) -> None:
    config.socket_path.unlink()
    with socket.socket(socket.AF_UNIX) as foreign:
        foreign.bind(str(config.socket_path))
        foreign.listen()
        inherited = inherited_from(before)
        with pytest.raises(StartupError, match="another process listens on"):
            open_sockets(config, inherited)
        inherited.close_untaken()
