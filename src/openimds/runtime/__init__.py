"""The parts that every process needs.

- `lifecycle`: start of the log, signal handling, and `StartupError`.
- `log_config`: log format, and the removal of secrets from log lines.
- `request_log`: a buffered writer for one log line per request.
- `metrics`: `/metrics` and `/healthcheck`, and the folder that worker processes share their metrics in.
- `sd_notify`: start-up notifications to the service manager.
- `fdstore`: listening sockets that survive a restart in the service manager's file descriptor store.
- `prefork`: worker processes that share listening sockets.
- `heartbeat`: the periodic report of an agent to the control API.
- `host_checks`: properties of the host that change how an agent configures its programs.
- `rlimits`: the limit of open files.
"""
