"""Keeps a worker's term alive from a thread of its own.

Renewing on the event loop would make one job that blocks it lose all jobs of the worker: they would run twice, though
nobody died. So a thread renews, with an event loop and, where given, a connection of its own.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable

from dougong.jobs._protocol import Queue
from dougong.telemetry import get_logger

__all__ = ["Keeper", "Renewer"]

Renewer = Callable[[], Awaitable[Queue]]
"""Opens the queue once more, for the thread alone; it is closed there too."""

_log = get_logger("dougong.jobs")
RETRY_S = 0.25
JOIN_S = 5.0


class Keeper:
    """Renews the term three times within its `ttl_s`; says once, by `lost(term)` from its thread, that it is over.

    It is taken for over as well when nothing was heard for `ttl_s`: then others believe so, or soon will. That is
    measured from before the call, by a clock that does not jump.
    """

    def __init__(
        self,
        queue: Queue,
        renewer: Renewer | None,
        ttl_s: float,
        lost: Callable[[int], None],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue = queue
        self._monotonic = monotonic
        self._renewer = renewer
        self._ttl_s = ttl_s
        self._lost = lost
        self._lock = threading.Lock()
        self._term: int | None = None
        self._heard_at = 0.0
        self._ready = threading.Event()
        self._failed: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None
        self._closing = False
        self._thread: threading.Thread | None = None

    async def start(self) -> None:
        """Start the thread and open its connection; raises what that raises."""
        self._thread = threading.Thread(target=self._run, name="dougong-job-term", daemon=True)
        self._thread.start()
        await asyncio.to_thread(self._ready.wait)
        if self._failed is not None:
            raise self._failed

    def keep(self, term: int, heard_at: float) -> None:
        """Renew this term from now on; `heard_at` (`monotonic`) is from before it was given."""
        with self._lock:
            self._term, self._heard_at = term, heard_at
        self._wake_up()

    def let_go(self) -> None:
        """Renew nothing."""
        with self._lock:
            self._term = None

    async def close(self) -> None:
        self._closing = True
        self._wake_up()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, JOIN_S)

    def _wake_up(self) -> None:
        loop, wake = self._loop, self._wake
        if loop is not None and wake is not None:
            try:
                loop.call_soon_threadsafe(wake.set)
            except RuntimeError:
                pass  # it has ended

    def _run(self) -> None:
        try:
            asyncio.run(self._keep())
        except BaseException as error:  # noqa: BLE001 (whoever starts the thread must hear of it)
            self._failed = error
            if self._ready.is_set():
                _log.exception("job_term_keeper_failed")
        finally:
            self._ready.set()

    async def _keep(self) -> None:
        self._loop, self._wake = asyncio.get_running_loop(), asyncio.Event()
        queue = await self._renewer() if self._renewer is not None else self._queue
        self._ready.set()
        try:
            pause_s = 0.0
            while not self._closing:
                try:
                    async with asyncio.timeout(pause_s):
                        await self._wake.wait()
                except TimeoutError:
                    pass
                self._wake.clear()
                pause_s = await self._renew(queue)
        finally:
            if self._renewer is not None:
                async with asyncio.timeout(JOIN_S):
                    await queue.close()

    async def _renew(self, queue: Queue) -> float:
        """Renew if it is time; how long to sleep."""
        every_s = self._ttl_s / 3
        with self._lock:
            term, heard_at = self._term, self._heard_at
        if term is None:
            return every_s
        before = self._monotonic()
        if (early_s := heard_at + every_s - before) > 0:
            return early_s
        left_s = heard_at + self._ttl_s - before
        try:
            async with asyncio.timeout(min(every_s, max(left_s, RETRY_S))):
                good = await queue.renew(term, self._ttl_s)
        except Exception as error:  # noqa: BLE001 (whatever it is: try again while there is time)
            if before - heard_at < self._ttl_s:
                _log.warning("job_term_renewal_failed", term=term, error=str(error) or repr(error))
                return min(RETRY_S, every_s)
            good = False
        with self._lock:
            if self._term != term:
                return 0.0
            if good:
                self._heard_at = before
                return every_s
            self._term = None
        self._lost(term)
        return every_s
