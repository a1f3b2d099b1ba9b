"""Power actions: reboot, stop, start, rebuild. A requested start is a new boot_generation. The report of the agent sets the
resulting status (agent_reports.py).
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy.orm import Session

from openimds.resources import compute as nouns
from openimds.resources.compute import Requester
from openimds.resources.errors import Conflict
from openimds.resources.instance import EC2_IMAGE
from openimds.store.compute.keypairs import named_keypair
from openimds.store.compute.server_create import image_block_devices, image_for_server, part_of_image
from openimds.store.compute.server_records import VM_STATES, server_records
from openimds.store.compute.servers import record_action, unlocked_server
from openimds.store.ec2_ids import assign_ec2_number
from openimds.store.engine import Store, utc_now
from openimds.store.models.compute import Server


class Power:
    """Every action raises NotFound, and Conflict if the state of the server does not permit it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def reboot(self, server_id: str, hard: bool, requester: Requester) -> None:
        def change(row: Server) -> None:
            states = {"active", "stopped", "error"} if hard else {"active"}
            _check(row, "reboot", states, while_busy=hard)
            _boot(row, "HARD_REBOOT" if hard else "REBOOT", "rebooting_hard" if hard else "rebooting")

        self._act(server_id, "reboot", requester, change)

    def stop(self, server_id: str, requester: Requester) -> None:
        def change(row: Server) -> None:
            _check(row, "stop", {"active", "error"})
            row.wanted_power_state = "stopped"
            row.task_state = "powering-off"

        self._act(server_id, "stop", requester, change)

    def start(self, server_id: str, requester: Requester) -> None:
        def change(row: Server) -> None:
            _check(row, "start", {"stopped"})
            _boot(row, "SHUTOFF", "powering-on")

        self._act(server_id, "start", requester, change)

    def rebuild(self, server_id: str, changes: nouns.Rebuild, requester: Requester) -> nouns.ServerRecord:
        """Replaces the image of a server, on the same host and with the same NICs. A stopped server stays stopped."""
        with self._store.write() as session:
            row = unlocked_server(session, server_id, requester, "os_compute_api:servers:rebuild")
            _check(row, "rebuild", {"active", "stopped", "error"})
            record_action(session, row, "rebuild", requester)
            _take_image(session, row, changes.image_id, requester)
            _take_key(session, row, changes, requester)
            _take_fields(row, changes)
            if row.status != "SHUTOFF":
                _boot(row, "REBUILD", "rebuilding")
            row.updated_at = utc_now()
            session.flush()
            return server_records(session, [row])[0]

    def _act(self, server_id: str, action: str, requester: Requester, change: Callable[[Server], None]) -> None:
        with self._store.write() as session:
            row = unlocked_server(session, server_id, requester, f"os_compute_api:servers:{action}")
            change(row)
            row.updated_at = utc_now()
            record_action(session, row, action, requester)


def _boot(row: Server, status: str, task_state: str) -> None:
    row.boot_generation += 1
    row.wanted_power_state = "running"
    row.status = status
    row.task_state = task_state
    row.fault = None


def _check(row: Server, action: str, states: set[str], *, while_busy: bool = False) -> None:
    """Raises Conflict in Nova's words. `while_busy`: the action is permitted while another action is in progress."""
    state = VM_STATES.get(row.status, "active")
    if state not in states:
        raise Conflict(f"Cannot '{action}' instance {row.id} while it is in vm_state {state}")
    if row.task_state is not None and not while_busy:
        raise Conflict(f"Cannot '{action}' instance {row.id} while it is in task_state {row.task_state}")
    if not row.host:
        raise Conflict(f"Cannot '{action}' instance {row.id}: it never had a host. Delete it.")


def _take_image(session: Session, row: Server, image_id: str, requester: Requester) -> None:
    image = image_for_server(session, image_id, requester, row.flavor)
    row.image_id = image.id
    row.kernel_id = part_of_image(session, image, "kernel_id", requester)
    row.ramdisk_id = part_of_image(session, image, "ramdisk_id", requester)
    row.block_devices = image_block_devices(image.id, row.flavor)
    for used in (row.image_id, row.kernel_id, row.ramdisk_id):
        if used:
            assign_ec2_number(session, EC2_IMAGE, used)


def _take_key(session: Session, row: Server, changes: nouns.Rebuild, requester: Requester) -> None:
    if changes.clear_key:
        row.key_name = row.key_type = row.public_key = None
    elif changes.key_name is not None:
        keypair = named_keypair(session, requester.user_id, changes.key_name)
        row.key_name, row.key_type, row.public_key = keypair.name, keypair.type, keypair.public_key


def _take_fields(row: Server, changes: nouns.Rebuild) -> None:
    row.name = changes.name or row.name
    row.hostname = changes.hostname or row.hostname
    row.access_ip_v4 = changes.access_ip_v4 or row.access_ip_v4
    row.access_ip_v6 = changes.access_ip_v6 or row.access_ip_v6
    if changes.clear_description or changes.description is not None:
        row.description = changes.description
    if changes.metadata is not None:
        row.metadata_ = dict(changes.metadata)
    if changes.personality is not None:
        row.personality = [dict(item) for item in changes.personality]
    if changes.clear_user_data or changes.user_data is not None:
        row.user_data = changes.user_data
