"""The permissions of the socket, derived as in neutron."""

from __future__ import annotations

import os

import pytest

from openimds.programs.metadata_agent.sockets import ProxyAccount, proxy_account, socket_access
from openimds.runtime.lifecycle import StartupError

AGENTS_OWN = ProxyAccount(user_id=None, group_id=None)


@pytest.mark.parametrize(
    ("mode", "account", "bits", "group"),
    [
        ("deduce", AGENTS_OWN, 0o644, -1),
        ("deduce", ProxyAccount(user_id=0, group_id=7), 0o644, -1),
        ("deduce", ProxyAccount(user_id=os.geteuid(), group_id=None), 0o644, -1),
        ("user", ProxyAccount(user_id=7, group_id=7), 0o644, -1),
        ("group", ProxyAccount(user_id=7, group_id=8), 0o664, 8),
        ("group", ProxyAccount(user_id=7, group_id=None), 0o664, -1),
        ("all", ProxyAccount(user_id=7, group_id=8), 0o666, -1),
        ("deduce", ProxyAccount(user_id=7, group_id=os.getegid()), 0o664, os.getegid()),
    ],
)
def test_socket_mode_is_derived_from_user_and_group(mode, account, bits, group):
    access = socket_access(mode, account)
    assert (access.mode, access.group_id) == (bits, group)


def test_user_and_group_may_be_names_or_numbers():
    assert proxy_account("", "") == AGENTS_OWN
    assert proxy_account("nobody", "nogroup") == proxy_account("65534", "65534")
    with pytest.raises(StartupError, match="metadata_proxy_group: there is no group 'none-such'"):
        proxy_account("", "none-such")
