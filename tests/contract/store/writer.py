"""A process that writes: `python writer.py URL NAME COUNT`. It creates networks and renames and deletes some of them."""

from __future__ import annotations

import sys
import uuid

from openimds.store.engine import Store, utc_now
from openimds.store.models.network import Network


def write(store: Store, name: str, count: int) -> None:
    """Creates `count` networks. Renames each third and deletes each fifth of them."""
    for number in range(count):
        network_id = str(uuid.uuid4())
        with store.write() as session:
            session.add(
                Network(
                    id=network_id, project_id="p", name=f"{name}-{number}", created_at=utc_now(), updated_at=utc_now()
                )
            )
        if number % 3 == 0:
            with store.write() as session:
                session.get_one(Network, network_id).name += " renamed"
        if number % 5 == 0:
            with store.write() as session:
                session.delete(session.get_one(Network, network_id))


if __name__ == "__main__":
    opened = Store(sys.argv[1])
    write(opened, sys.argv[2], int(sys.argv[3]))
    opened.close()
