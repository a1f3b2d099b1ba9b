"""Strict requests: rejects requests that an attacker can cause a browser or an open proxy in an instance to send.

A page in a browser can reach the metadata address by DNS rebinding. Its requests have the page's host in Host. An open
proxy adds the address of its own client.
"""

from __future__ import annotations

from collections.abc import Collection

from openimds.guest_identity.headers import Headers, is_identity_claim, values


def rejection_reason(headers: Headers, allowed_hosts: Collection[str]) -> str | None:
    """Returns the reason of a rejection (403), None for an allowed request.

    `allowed_hosts`: the values of `Host` without the port: `169.254.169.254`, `[fe80::a9fe:a9fe]`, `metadata.example`.
    """
    hosts = values(headers, "Host")
    if len(hosts) != 1 or _without_port(hosts[0]) not in {host.lower() for host in allowed_hosts}:
        return "The request names another host than the metadata service's."
    if any(is_identity_claim(name) for name, _value in headers):
        return "The request was forwarded, or has a header that claims an identity."
    return None


def _without_port(host: str) -> str:
    """`169.254.169.254:80` → `169.254.169.254`; `[fe80::a9fe:a9fe]` stays."""
    plain = host.strip().lower()
    name, colon, port = plain.rpartition(":")
    is_port = bool(colon) and port.isdigit() and (name.endswith("]") or ":" not in name)
    return name if is_port else plain
