"""Who may open the metadata agent's socket: `metadata_proxy_socket_mode`, as neutron deduces it."""

from __future__ import annotations

import grp
import os
import pwd
from dataclasses import dataclass

from openimds.http.sockets import UnixAccess
from openimds.runtime.lifecycle import CannotStartError

_MODES = {"user": 0o644, "group": 0o664, "all": 0o666}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyAccount:
    """Whom the namespace proxies run as; None: the agent's own."""

    user_id: int | None
    group_id: int | None


def proxy_account(user: str, group: str) -> ProxyAccount:
    """From names or numbers; empty is None. Raises CannotStartError for one that does not exist."""
    try:
        user_id = None if not user else int(user) if user.isdigit() else pwd.getpwnam(user).pw_uid
    except KeyError:
        raise CannotStartError(f"metadata_proxy_user: there is no user {user!r} on this machine") from None
    try:
        group_id = None if not group else int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise CannotStartError(f"metadata_proxy_group: there is no group {group!r} on this machine") from None
    return ProxyAccount(user_id=user_id, group_id=group_id)


def socket_access(mode: str, account: ProxyAccount) -> UnixAccess:
    """The socket's permission bits; with `group` it is given to the proxies' group."""
    chosen = _deduced(account) if mode == "deduce" else mode
    group_id = account.group_id if chosen == "group" and account.group_id is not None else -1
    return UnixAccess(mode=_MODES[chosen], group_id=group_id)


def _deduced(account: ProxyAccount) -> str:
    if account.user_id is None or account.user_id in (0, os.geteuid()):
        return "user"
    # Root can give the socket to the proxies' group; another user only where it is in that group itself.
    may_give = account.group_id is None or os.geteuid() == 0 or account.group_id in (os.getegid(), *os.getgroups())
    return "group" if may_give else "all"
