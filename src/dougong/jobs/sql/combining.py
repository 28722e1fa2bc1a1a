"""Puts that come side by side share a unit.

A unit costs as much as the insertion of several jobs. So callers that put one job each ride together: closed loop, no
timer. What comes while a unit is on its way to the disk goes with the next, and a lone caller waits for nobody.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from dougong.errors import DeadlineExceeded, Overloaded, Unavailable
from dougong.jobs._protocol import Enqueued, NewJob

__all__ = ["ALONE_MIN", "Combiner"]

ALONE_MIN = 50
"""As many jobs as that in one put are a unit of their own."""
TOGETHER_MAX = 500
"""Jobs in one unit: it must not hold the writer (and on SQLite the loop) for more than a few milliseconds."""

Put = tuple[Sequence[NewJob], "asyncio.Future[list[Enqueued]]"]


class Combiner:
    """`write` puts jobs in a unit. Each caller hears of its own, once they are durable."""

    def __init__(self, write: Callable[[Sequence[NewJob]], Awaitable[list[Enqueued]]]) -> None:
        self._write = write
        self._waiting: deque[Put] = deque()
        self._writing: asyncio.Task[None] | None = None

    async def put(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
        """Checked ones. Who is cancelled before its unit begins has put nothing."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Enqueued]] = loop.create_future()
        self._waiting.append((jobs, future))
        if self._writing is None:
            self._writing = loop.create_task(self._run(), name="jobs put")
        return await future

    async def close(self) -> None:
        """Wait for what was accepted."""
        if self._writing is not None:
            await asyncio.wait([self._writing])

    async def _run(self) -> None:
        try:
            while puts := self._next():
                await self._put(puts)
                await asyncio.sleep(0)  # whoever was just answered may have more, which then is in the next unit
        finally:
            self._writing = None
            for _, future in self._waiting:  # the loop is being closed
                future.cancel()

    def _next(self) -> list[Put]:
        puts: list[Put] = []
        left = TOGETHER_MAX
        while self._waiting and (left >= len(self._waiting[0][0]) or not puts):
            put = self._waiting.popleft()
            if not put[1].done():  # else its caller went away
                puts.append(put)
                left -= len(put[0])
        return puts

    async def _put(self, puts: Sequence[Put]) -> None:
        try:
            enqueued = await self._write([job for jobs, _ in puts for job in jobs])
        except (DeadlineExceeded, Overloaded, Unavailable) as error:
            # Nobody knows whether it was written: said to each of them, and not tried again.
            _fail(puts, error)
        except Exception as error:  # noqa: BLE001 (whatever it is, it is said to whose it is)
            if len(puts) == 1:
                _fail(puts, error)
                return
            for put in puts:  # one of them is refused, which is not the others' affair
                await self._put([put])
        except BaseException:
            for _, future in puts:
                future.cancel()
            raise
        else:
            start = 0
            for jobs, future in puts:
                end = start + len(jobs)
                if not future.done():
                    future.set_result(enqueued[start:end])
                start = end


def _fail(puts: Sequence[Put], error: Exception) -> None:
    for _, future in puts:
        if not future.done():
            future.set_exception(error)
