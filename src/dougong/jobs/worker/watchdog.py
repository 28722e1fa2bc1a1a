"""Names the job that holds up the event loop, from a thread that it cannot hold up."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import Callable

__all__ = ["Watchdog"]

STACK_LINES = 6
JOIN_S = 1.0


class Watchdog:
    """The loop shows that it lives every tenth of `blocked_s`; a thread looks. `blocked(seconds, stack)` is called in
    that thread once per time that the loop stands still for longer than `blocked_s`.
    """

    def __init__(self, blocked_s: float, blocked: Callable[[float, str], None]) -> None:
        self._blocked_s = blocked_s
        self._every_s = blocked_s / 10
        self._blocked = blocked
        self._alive_at = 0.0
        self._stop = threading.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Watch the running loop."""
        self._show()
        self._thread = threading.Thread(
            target=self._look, args=(threading.get_ident(),), name="dougong-job-watchdog", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._timer is not None:
            self._timer.cancel()
        if self._thread is not None:
            self._thread.join(JOIN_S)

    def _show(self) -> None:
        self._alive_at = time.monotonic()
        self._timer = asyncio.get_running_loop().call_later(self._every_s, self._show)

    def _look(self, loop_thread: int) -> None:
        told = 0.0
        while not self._stop.wait(self._every_s):
            alive_at = self._alive_at
            late_s = time.monotonic() - alive_at
            if late_s > self._blocked_s and told != alive_at:
                told = alive_at
                frame = sys._current_frames().get(loop_thread)
                stack = "".join(traceback.format_stack(frame)[-STACK_LINES:]) if frame is not None else ""
                self._blocked(late_s, stack)
