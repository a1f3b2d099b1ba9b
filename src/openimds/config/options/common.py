"""The options of every program, and the database of the programs that use the store."""

from __future__ import annotations

import socket

from oslo_config import cfg

from openimds.config.options import DEFAULT, Section, deprecated

COMMON = Section(
    DEFAULT,
    (
        cfg.StrOpt(
            "state_path",
            default="/var/lib/openimds",
            help="The state folder of this machine. All programs of the machine must use the same folder.",
        ),
        cfg.StrOpt(
            "host",
            default=socket.gethostname(),
            sample_default="<this machine's name>",
            regex=r"^[A-Za-z0-9._-]{1,255}$",
            help="The name of this machine in the cloud. Agents handle the resources that are bound to this host.",
        ),
        cfg.StrOpt(
            "namespace_prefix",
            default="",
            regex=r"^[a-z0-9-]{0,32}$",
            help="The prefix of the names of all network namespaces. It separates two systems on one machine.",
        ),
        cfg.BoolOpt("debug", default=False, help="Write debug events to the log."),
        cfg.StrOpt(
            "log_format",
            default="console",
            choices=[("console", "text"), ("json", "one JSON object per line")],
            help="The format of the log on stderr.",
        ),
    ),
)

METRICS = Section(
    "metrics",
    (
        cfg.StrOpt("listen", default="127.0.0.1", help="The address that serves /metrics and /healthcheck."),
        cfg.PortOpt("port", default=0, help="The port that serves /metrics and /healthcheck. 0: they are not served."),
    ),
    "The listener for monitoring, which instances cannot reach.",
)

DATABASE = Section(
    "database",
    (
        cfg.StrOpt(
            "connection",
            default="sqlite:///$state_path/openimds.sqlite",
            secret=True,
            deprecated_opts=[deprecated("sql_connection"), deprecated("sql_connection", "database")],
            help="The SQLAlchemy URL of the store: sqlite:////path, or postgresql+psycopg://user:password@host/name.",
        ),
    ),
)
