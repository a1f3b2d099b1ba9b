"""Several processes that serve the same sockets: made by fork after the sockets are bound, kept up by their parent."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType

import structlog

log = structlog.get_logger(__name__)

_RESTART_PAUSE_SECONDS = 1.0
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def run_workers(count: int, serve: Callable[[int], int]) -> int:
    """Run `serve(number)` in `count` processes until told to stop; a worker that dies is replaced. The exit code.

    One worker runs in this very process. To be called before any thread or event loop is started.
    """
    if count == 1:
        return serve(0)
    return _Parent(count, serve).run()


class _Parent:
    def __init__(self, count: int, serve: Callable[[int], int]) -> None:
        self._serve = serve
        self._count = count
        self._number_of: dict[int, int] = {}
        self._stopping = False

    def run(self) -> int:
        for passed in _PASSED_ON:
            signal.signal(passed, self._pass_on)
        for number in range(self._count):
            self._start(number)
        worst = 0
        while self._number_of:
            pid, status = os.wait()
            code = os.waitstatus_to_exitcode(status)
            worker = self._number_of.pop(pid, None)
            if self._stopping:
                # A worker that was still starting is ended by the signal itself.
                worst = max(worst, 0 if -code in _PASSED_ON else abs(code))
            elif worker is not None:
                log.warning("a worker ended and is started again", worker=worker, pid=pid, code=code)
                self._restart(worker)
        return worst

    def _restart(self, number: int) -> None:
        time.sleep(_RESTART_PAUSE_SECONDS)
        if not self._stopping:
            self._start(number)

    def _start(self, number: int) -> None:
        pid = os.fork()
        if pid:
            self._number_of[pid] = number
            if self._stopping:  # the signal came between the fork and this line
                os.kill(pid, signal.SIGTERM)
            return
        self._be_worker(number)

    def _be_worker(self, number: int) -> None:
        code = 1
        try:
            for passed in _PASSED_ON:
                signal.signal(passed, signal.SIG_DFL)
            code = self._serve(number)
        except BaseException:  # nothing of the parent's stack may run in the child
            log.exception("a worker failed", worker=number)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGHUP:
            self._stopping = True
        for pid in list(self._number_of):
            os.kill(pid, number)
