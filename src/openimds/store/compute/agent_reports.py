"""Servers as compute agents see them, and the reports of the agents, which change the status of a server.

An agent receives `wanted_power_state` and `boot_generation`, and reports the outcome of that boot:

    BUILD, REBOOT, HARD_REBOOT, REBUILD  + running → ACTIVE
    ACTIVE with a requested stop         + stopped → SHUTOFF
    any requested start                  + stopped → SHUTOFF (the boot ended before it was reported as running)
    SHUTOFF with a requested start       + running → ACTIVE
    any                                  + error   → ERROR, with the fault
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from openimds.resources.errors import BadRequest, NotFound, PayloadTooLarge
from openimds.store.engine import utc_now
from openimds.store.models.compute import Server, ServerConsole

CONSOLE_MAX_BYTES = 256 * 1024

RUNNING, STOPPED, FAILED = "running", "stopped", "error"


def report_server(
    session: Session, server_id: str, boot_generation: int, power_state: str, fault: str | None = None
) -> None:
    """Applies an agent's report about a boot. A report about an older boot has no effect.

    `power_state`: running, stopped or error. Raises NotFound, BadRequest. Idempotent.
    """
    if power_state not in {RUNNING, STOPPED, FAILED}:
        raise BadRequest("power_state", f"power_state must be running, stopped or error, not {power_state!r}")
    row = session.get(Server, server_id)
    if row is None:
        raise NotFound(f"Server {server_id} could not be found.")
    if boot_generation != row.boot_generation:
        return
    now = utc_now()
    if power_state == FAILED:
        set_fault(row, fault or "The compute agent could not run the server and did not say why.", now)
    elif power_state == RUNNING and row.wanted_power_state == RUNNING:
        _set_active(row, now)
    elif power_state == STOPPED and _may_stop(row):
        # A guest that powered itself off stays off until a start request.
        launched_at = row.launched_at or (now if row.wanted_power_state == RUNNING else None)
        _set(row, status="SHUTOFF", task_state=None, fault=None, wanted_power_state=STOPPED, launched_at=launched_at)


def _may_stop(row: Server) -> bool:
    """Whether a report `stopped` has effect. A boot may end before it was reported as running. Agents of release 0.1 report
    an external server as stopped while its ports are not in place.
    """
    if row.wanted_power_state == STOPPED or row.status == "ACTIVE":
        return True
    return row.status != "ERROR" and row.driver != "external"


def put_console(session: Session, server_id: str, text: str) -> None:
    """Replaces the stored end of the console output. Raises NotFound, PayloadTooLarge (more than 256 KiB)."""
    if len(text.encode()) > CONSOLE_MAX_BYTES:
        raise PayloadTooLarge(f"The tail of a console has at most {CONSOLE_MAX_BYTES} bytes; send only its end.")
    if session.get(Server, server_id) is None:
        raise NotFound(f"Server {server_id} could not be found.")
    row = session.get(ServerConsole, server_id)
    if row is None:
        session.add(ServerConsole(server_id=server_id, output=text))
    else:
        row.output = text


def server_json(row: Server) -> dict[str, Any]:
    """The server as the watch shows it to agents (docs/design/watch.md)."""
    return {
        "id": row.id,
        "name": row.name,
        "project_id": row.project_id,
        "hostname": row.hostname,
        "host": row.host,
        "driver": row.driver,
        "wanted_power_state": row.wanted_power_state,
        "boot_generation": row.boot_generation,
        "memory_mib": row.flavor.get("ram", 0),
        "disk_gib": row.flavor.get("disk", 0),
        "status": row.status,
        "port_ids": list(row.nic_order),
    }


def set_fault(row: Server, message: str, now: datetime, code: int = 500) -> None:
    """Sets the status ERROR with a fault."""
    fault = {"code": code, "created": now.strftime("%Y-%m-%dT%H:%M:%SZ"), "message": message}
    if row.status == "ERROR" and row.fault and row.fault["message"] == message:
        return
    _set(row, status="ERROR", task_state=None, fault=fault, updated_at=now)


def _set_active(row: Server, now: datetime) -> None:
    if row.status == "ACTIVE" and row.task_state is None:
        return
    _set(row, status="ACTIVE", task_state=None, fault=None, updated_at=now, launched_at=row.launched_at or now)


def _set(row: Server, **values: Any) -> None:
    """Sets the columns that differ. An assignment of the same value would make a revision."""
    for name, value in values.items():
        if getattr(row, name) != value:
            setattr(row, name, value)
