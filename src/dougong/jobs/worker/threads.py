"""Threads for jobs that are plain functions: as many as run at once, gone when idle.

Not `ThreadPoolExecutor`: it never gives a thread back when the limit goes down, and at its end the process waits for a
thread that hangs.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable

__all__ = ["Threads"]

IDLE_S = 10.0

_Work = tuple[Callable[[], object], "asyncio.Future[object]", asyncio.AbstractEventLoop]


class Threads:
    """`call` runs a function in a thread. How many run at once is the caller's to bound."""

    def __init__(self, idle_s: float = IDLE_S) -> None:
        self._work: queue.SimpleQueue[_Work] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle_s = idle_s
        self._free = 0
        """Threads that wait, less the work that waits for them."""
        self.count = 0

    def call(self, function: Callable[[], object]) -> asyncio.Future[object]:
        """Its outcome. Cancelling the future does not stop the function."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[object] = loop.create_future()
        with self._lock:
            start = self._free <= 0
            if start:
                self.count += 1
            else:
                self._free -= 1
        self._work.put((function, future, loop))
        if start:
            threading.Thread(target=self._run, name="dougong-job", daemon=True).start()
        return future

    def _run(self) -> None:
        while True:
            try:
                work = self._work.get(timeout=self._idle_s)
            except queue.Empty:
                with self._lock:
                    if self._free > 0:  # else work is on its way to this thread
                        self._free -= 1
                        self.count -= 1
                        return
                continue
            self._do(*work)
            del work
            with self._lock:
                self._free += 1

    def _do(
        self, function: Callable[[], object], future: asyncio.Future[object], loop: asyncio.AbstractEventLoop
    ) -> None:
        try:
            value, error = function(), None
        except BaseException as raised:  # noqa: BLE001 (sys.exit in a job ends the job, not the thread)
            value, error = None, raised
        try:
            loop.call_soon_threadsafe(_settle, future, value, error)
        except RuntimeError:
            pass  # the loop is closed: nobody waits any more


def _settle(future: asyncio.Future[object], value: object, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(value)
    elif isinstance(error, (StopIteration, GeneratorExit, KeyboardInterrupt)):
        # These mean something to whoever runs a coroutine, and the job is not who may say it.
        future.set_exception(RuntimeError(f"the job raised {error!r}"))
    else:
        future.set_exception(error)
