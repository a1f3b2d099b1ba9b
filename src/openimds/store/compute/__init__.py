"""Servers, keypairs, flavors and hosts; and what the compute agents report of servers."""

from __future__ import annotations

from openimds.store.compute.reports import put_console, report_server, server_wire

__all__ = ["put_console", "report_server", "server_wire"]
