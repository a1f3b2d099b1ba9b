"""The creation of listening sockets."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from openimds.http.sockets import ListenError, UnixAccess, datagram_listener, tcp_listener, unix_listener


def test_stale_socket_file_is_replaced_and_one_in_use_is_not(tmp_path: Path):
    path = tmp_path / "sock"
    first = unix_listener(path, UnixAccess(mode=0o664, group_id=os.getegid()))
    assert stat.S_IMODE(path.stat().st_mode) == 0o664
    first.close()  # the file remains, as after a crash
    second = unix_listener(path, UnixAccess(mode=0o600))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    second.listen(1)
    with pytest.raises(ListenError, match="another process listens on"):
        unix_listener(path, UnixAccess())
    second.close()


def test_file_that_is_no_socket_is_not_replaced(tmp_path: Path):
    path = tmp_path / "file"
    path.write_text("precious")
    with pytest.raises(ListenError, match="is no socket"):
        unix_listener(path, UnixAccess())
    assert path.read_text() == "precious"


def test_error_for_a_missing_folder_says_what_to_check(tmp_path: Path):
    with pytest.raises(ListenError, match="check its folder"):
        unix_listener(tmp_path / "none" / "sock", UnixAccess())


def test_datagram_socket_is_replaced_only_after_it_is_closed(tmp_path: Path):
    path = tmp_path / "log"
    first = datagram_listener(path, UnixAccess(mode=0o622))
    with pytest.raises(ListenError):
        datagram_listener(path, UnixAccess())
    first.close()
    datagram_listener(path, UnixAccess()).close()


def test_error_for_a_taken_port_names_the_port():
    first = tcp_listener("127.0.0.1", 0)
    first.listen(1)
    port = first.getsockname()[1]
    with pytest.raises(ListenError, match=f"port {port} on 127.0.0.1 is taken"):
        tcp_listener("127.0.0.1", port)
    first.close()


def test_address_that_is_not_local_is_rejected():
    with pytest.raises(ListenError, match=r"192\.0\.2\.1"):
        tcp_listener("192.0.2.1", 8775)
    with pytest.raises(ListenError, match="give an address of this machine"):
        tcp_listener("no such name.invalid", 8775)


def test_ipv6_wildcard_listener_is_created():
    listener = tcp_listener("::", 0)
    assert listener.getsockname()[1] > 0
    listener.close()
