"""The options of every program, and of all that read the store."""

from __future__ import annotations

import socket

from oslo_config import cfg

from openimds.config.options import DEFAULT, Section, old

COMMON = Section(
    DEFAULT,
    (
        cfg.StrOpt(
            "state_path",
            default="/var/lib/openimds",
            help="The folder of everything this machine keeps. Programs that work together name the same one.",
        ),
        cfg.StrOpt(
            "host",
            default=socket.gethostname(),
            sample_default="<this machine's name>",
            regex=r"^[A-Za-z0-9._-]{1,255}$",
            help="This machine's name in the cloud: agents do the work that is bound to it.",
        ),
        cfg.StrOpt(
            "namespace_prefix",
            default="",
            regex=r"^[a-z0-9-]{0,32}$",
            help="Stands before the names of all namespaces, and keeps two systems on one machine apart.",
        ),
        cfg.BoolOpt("debug", default=False, help="Log more."),
        cfg.StrOpt(
            "log_format",
            default="console",
            choices=[("console", "lines for people"), ("json", "one JSON object a line")],
            help="The form of the log on stderr.",
        ),
    ),
)

METRICS = Section(
    "metrics",
    (
        cfg.StrOpt("listen", default="127.0.0.1", help="Where /metrics and /healthcheck are served."),
        cfg.PortOpt("port", default=0, help="0: nowhere."),
    ),
    "An own listener for monitoring; guests never reach it.",
)

DATABASE = Section(
    "database",
    (
        cfg.StrOpt(
            "connection",
            default="sqlite:///$state_path/openimds.sqlite",
            secret=True,
            deprecated_opts=[old("sql_connection"), old("sql_connection", "database")],
            help="The store, as SQLAlchemy has them: sqlite:////path, or postgresql+psycopg://user:password@host/name.",
        ),
    ),
)
