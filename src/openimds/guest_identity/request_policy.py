"""Strict requests: what a guest's own software never sends, and a browser or a proxy in the guest may be made to.

A page in a browser inside an instance can be led to the metadata address by DNS rebinding: its requests then name the
page's host. A proxy in the instance that is open to others adds who it asks for. Neither is answered.
"""

from __future__ import annotations

from collections.abc import Collection

from openimds.guest_identity.headers import Headers, is_identity_claim, values


def rejection_reason(headers: Headers, allowed_hosts: Collection[str]) -> str | None:
    """Why such a request is refused (403), None when it is not.

    `allowed_hosts`: as in `Host`, without port: `169.254.169.254`, `[fe80::a9fe:a9fe]`, `metadata.example`.
    """
    hosts = values(headers, "Host")
    if len(hosts) != 1 or _without_port(hosts[0]) not in {host.lower() for host in allowed_hosts}:
        return "The request names another host than the metadata service's."
    if any(is_identity_claim(name) for name, _value in headers):
        return "The request was forwarded, or says itself who asks."
    return None


def _without_port(host: str) -> str:
    """`169.254.169.254:80` → `169.254.169.254`; `[fe80::a9fe:a9fe]` stays."""
    plain = host.strip().lower()
    name, colon, port = plain.rpartition(":")
    is_port = bool(colon) and port.isdigit() and (name.endswith("]") or ":" not in name)
    return name if is_port else plain
