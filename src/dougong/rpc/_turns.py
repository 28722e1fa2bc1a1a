"""Who waits for room on the connections to one instance, and whose turn it is when some comes."""

from __future__ import annotations

import asyncio
from collections import deque

__all__ = ["Turns"]


class Turns:
    """Calls are woken one by one, first come, first served; batches all at once, as a stream may have room for many."""

    __slots__ = ("_loop", "batches", "calls")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.calls: deque[asyncio.Future[None]] = deque()
        """That wait; public, as most calls end with nobody waiting and need ask for no more than that."""
        self.batches: list[asyncio.Future[None]] = []

    async def wait(self, until: float | None, give_up_at: float, *, batch: bool) -> None:
        """Until woken, or `until`. Raises TimeoutError when it is `give_up_at` before that. Times are the loop's."""
        future = self._loop.create_future()
        waiting = self.batches if batch else self.calls
        waiting.append(future)
        try:
            async with asyncio.timeout_at(give_up_at if until is None else min(until, give_up_at)):
                await future
        except TimeoutError:
            if self._loop.time() >= give_up_at:
                if future.done() and not batch:
                    self.wake_call()  # our turn came in the same breath; somebody else takes it
                raise
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and not batch:
                self.wake_call()  # it was our turn; somebody else takes it
            raise
        finally:
            if future in waiting:
                waiting.remove(future)

    def wake_call(self) -> None:
        """There is room for one."""
        while self.calls:
            future = self.calls.popleft()
            if not future.done():
                future.set_result(None)
                return

    def wake_batches(self) -> None:
        """There may be room for some."""
        waiting, self.batches = self.batches, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def wake_all(self) -> None:
        """Everything changed."""
        self.wake_batches()
        while self.calls:
            self.wake_call()
