"""The DHCP options that a port's owner may set for its guest: an allow-list.

Whatever is not on it, or holds a character that could end a line of dnsmasq's file, is refused
(OSSA-2021-005: a newline in an option's value wrote options for other tenants).
"""

from __future__ import annotations

import re

from openimds.resources.network import ExtraDhcpOption

# As `dnsmasq --help dhcp` and `--help dhcp6` (2.90) know them.
_NAMES_V4 = frozenset(
    """
    netmask time-offset router dns-server log-server lpr-server boot-file-size domain-name swap-server
    root-path extension-path ip-forward-enable non-local-source-routing policy-filter max-datagram-reassembly
    default-ttl mtu all-subnets-local router-discovery router-solicitation static-route trailer-encapsulation
    arp-timeout ethernet-encap tcp-ttl tcp-keepalive nis-domain nis-server ntp-server netbios-ns netbios-dd
    netbios-nodetype netbios-scope x-windows-fs x-windows-dm T1 T2 vendor-class nis+-domain nis+-server
    tftp-server bootfile-name mobile-ip-home smtp-server pop3-server nntp-server irc-server user-class
    rapid-commit client-arch client-interface-id client-machine-id posix-timezone tzdb-timezone ipv6-only
    domain-search sip-server classless-static-route vendor-id-encap tftp-server-address server-ip-address
    """.split()  # noqa: SIM905 - reads better than 60 lines of one word each
)
_NAMES_V6 = frozenset(
    """
    sip-server-domain sip-server dns-server domain-search nis-server nis+-server nis-domain nis+-domain
    sntp-server information-refresh-time posix-timezone tzdb-timezone ntp-server bootfile-url bootfile-param
    """.split()  # noqa: SIM905 - reads better than 60 lines of one word each
)
# Those by which a server and its clients agree on a lease; a guest's owner has no say in them.
_RESERVED_CODES_V4 = frozenset({0, 50, 51, 52, 53, 54, 55, 57, 61, 82, 255})
_RESERVED_CODES_V6 = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 18, 25, 26})
_PLAIN_VALUE = re.compile(r"[\x20-\x7e]{0,255}")


def option_line(tag: str, option: ExtraDhcpOption) -> str | None:
    """`tag:port-…,option:bootfile-name,pxelinux.0`; None when the option is not allowed."""
    name = _option_name(option.name, option.ip_version)
    if name is None or not _PLAIN_VALUE.fullmatch(option.value):
        return None
    return f"tag:{tag},{name},{option.value}" if option.value else f"tag:{tag},{name}"


def _option_name(name: str, ip_version: int) -> str | None:
    family, names, reserved = (
        ("option", _NAMES_V4, _RESERVED_CODES_V4) if ip_version == 4 else ("option6", _NAMES_V6, _RESERVED_CODES_V6)
    )
    if name.isascii() and name.isdigit():
        code = int(name)
        if code in reserved or code > (255 if ip_version == 4 else 65535):
            return None
        return str(code) if ip_version == 4 else f"option6:{code}"
    return f"{family}:{name}" if name in names else None
