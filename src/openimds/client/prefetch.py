"""Which instances' records to fetch before their guests ask: those with a port on this host that has just changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from openimds.client.view import View
from openimds.resources.network import DEVICE_OWNER_COMPUTE_PREFIX, Port


class Prefetch:
    """`mirror.subscribe(Prefetch(host, instances.prefetch).heard)`: the mirror's thread calls it with every new view."""

    def __init__(self, host: str, fetch_ahead: Callable[[Iterable[str]], None]) -> None:
        self._host = host
        self._fetch_ahead = fetch_ahead
        self._ports: Mapping[str, Port] = {}

    def heard(self, view: View) -> None:
        before, self._ports = self._ports, view.ports
        if view.ports is before:
            return
        wanted = {
            port.device_id
            for port_id, port in view.ports.items()
            if before.get(port_id) is not port and self._is_ours(port)
        }
        if wanted:
            self._fetch_ahead(wanted)

    def _is_ours(self, port: Port) -> bool:
        return (
            port.host == self._host
            and bool(port.device_id)
            and port.device_owner.startswith(DEVICE_OWNER_COMPUTE_PREFIX)
        )
