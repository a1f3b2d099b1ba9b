"""What the parts tell their supervisor: how far their start is, that they are ready, which sockets it is to keep."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from openimds.supervisor.notify_socket import Message, NotifySocket
from openimds.supervisor.roster import Roster
from openimds.supervisor.service import Supervised

log = structlog.get_logger(__name__)


class Hearing:
    """Of one loop: `hear` when there is something to read."""

    def __init__(self, roster: Roster, say: Callable[[str], None]) -> None:
        """`say` is told how far a part is while somebody waits for it."""
        self._roster = roster
        self._say = say
        with roster.folder.problems_told():
            self.socket = NotifySocket(roster.folder.notify_socket)

    def hear(self) -> None:
        """All that was said until now."""
        changed = False
        for message in self.socket.messages():
            each = self._roster.with_pid(message.pid)
            if each is None:
                message.close()
            else:
                changed |= self._apply(message, each)
        if changed:
            self._roster.note()

    def close(self) -> None:
        self.socket.close()

    def _apply(self, message: Message, each: Supervised) -> bool:
        """Whether it is news."""
        before = len(each.sockets)
        each.sockets.apply(message)
        changed = len(each.sockets) != before
        if each.state != "starting":
            return changed
        said = each.said
        changed |= each.hear_of_start(message.fields)
        if each.said and each.said != said:
            self._tell_progress(each)
        if message.fields.get("READY") != "1":
            return changed
        each.state = "running"
        log.info("a part is ready", part=each.part.name, pid=message.pid)
        return True

    def _tell_progress(self, each: Supervised) -> None:
        if self._roster.is_starting:
            self._say(f"{each.part.name}: {each.said}")
        else:  # whom to say it to may be gone
            log.info("a part's start goes on", part=each.part.name, said=each.said)
