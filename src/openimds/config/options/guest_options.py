"""How guests' own requests are taken, in whichever program they meet first."""

from __future__ import annotations

from oslo_config import cfg

from openimds.config.options import Section

ALLOWED_HOSTS = ["169.254.169.254", "[fe80::a9fe:a9fe]"]


def strict_options() -> tuple[cfg.Opt, ...]:
    """What browsers and proxies inside a guest may be made to send."""
    return (
        cfg.BoolOpt(
            "strict_requests",
            default=False,
            help="Refuse (403) what a browser or a proxy in a guest may be made to send: another Host than "
            "allowed_hosts, X-Forwarded-For and its kind, headers that say who asks. Off: these are ignored.",
        ),
        cfg.ListOpt(
            "allowed_hosts",
            default=ALLOWED_HOSTS,
            help="With strict_requests: the hosts that guests may name, without port.",
        ),
    )


GUEST_REQUESTS = Section(
    "guest_requests",
    strict_options(),
    "How guests' own requests are taken: by the metadata API where service_metadata_proxy is off, by the metadata agent "
    "where metadata_proxy is `direct`.",
)
