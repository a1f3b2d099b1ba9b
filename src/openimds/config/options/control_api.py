"""The control API's options."""

from __future__ import annotations

from oslo_config import cfg

from openimds.config.options import Section, seconds

CONTROL_API = Section(
    "control_api",
    (
        cfg.StrOpt("listen", default="127.0.0.1", help="The address the control API listens on."),
        cfg.PortOpt("port", default=5000, min=1, help="Its port."),
        cfg.URIOpt(
            "public_url",
            schemes=["http", "https"],
            sample_default="http://<listen>:<port>",
            help="What the URLs in the catalog begin with, as clients reach this API.",
        ),
        cfg.StrOpt("region", default="RegionOne", help="The region's name in the catalog."),
        cfg.StrOpt(
            "token_keys_file",
            default="$state_path/etc/token_keys",
            help="Fernet keys that tokens are signed with, one a line, the newest first. All replicas share it.",
        ),
        cfg.IntOpt("token_expiration_seconds", default=3600, min=60, max=604800, help="How long a token is valid."),
        cfg.StrOpt("images_dir", default="$state_path/images", help="Where image data is kept."),
        cfg.Opt(
            "agent_down_time",
            default=20,
            type=seconds(minimum=1),
            help="An agent that was not heard of for so many seconds is shown as down, and gets no new servers.",
        ),
        cfg.IntOpt(
            "change_retention_seconds",
            default=3600,
            min=60,
            help="How long deletions are remembered for agents that were away; one that was away longer lists again.",
        ),
    ),
    "The control API: what the openstack client and the agents talk to.",
)
