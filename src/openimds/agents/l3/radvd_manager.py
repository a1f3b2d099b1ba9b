"""Keeps a router's radvd: only where a network wants router advertisements."""

from __future__ import annotations

from openimds.agents.atomic_write import write_if_changed
from openimds.agents.protocols import DaemonManager
from openimds.netconfig.radvd import RadvdSettings, radvd, radvd_config, radvd_file
from openimds.netconfig.router_view import RouterView


class RadvdManager:
    """Says in words what it changed; nothing when all is right."""

    def __init__(self, programs: DaemonManager) -> None:
        self._programs = programs
        self.pids: dict[str, int] = {}
        """By router: which process should be running."""

    def ensure(self, view: RouterView, namespace: str, settings: RadvdSettings) -> tuple[str, ...]:
        """Raises what starting a program raises, and OSError."""
        config = radvd_config(view)
        router_id = view.router.id
        if not config:
            return self.remove(router_id, namespace, settings)
        daemon = radvd(router_id, namespace, settings)
        is_new = write_if_changed(radvd_file(router_id, settings), config)
        pid = self._programs.running_pid(daemon)
        if pid is not None and not is_new:
            self.pids[router_id] = pid
            return ()
        # Started anew, not told to read again: by then it has given up the right to read in a closed folder.
        self._programs.stop(daemon)
        self._programs.stop_stale(daemon)
        self.pids[router_id] = self._programs.start(daemon)
        return (f"start radvd (pid {self.pids[router_id]})",)

    def remove(self, router_id: str, namespace: str, settings: RadvdSettings) -> tuple[str, ...]:
        """Idempotent."""
        path, daemon = radvd_file(router_id, settings), radvd(router_id, namespace, settings)
        if not path.exists() and self._programs.running_pid(daemon) is None:
            return ()
        self.pids.pop(router_id, None)
        self._programs.stop(daemon)
        path.unlink(missing_ok=True)
        return ("stop radvd",)
