"""How a worker without jobs hears of new ones: at once from its own process, by looking now and then from others."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import cast

from dougong.jobs.sql.settings import SqlQueueSettings
from dougong.store import Store

__all__ = ["Waking"]

_HINT_S = 0.002
_MORE = -1


class Waking:
    """Compares how many jobs ever came to a queue with how many had come when a worker last found it empty."""

    def __init__(self, store: Store, settings: SqlQueueSettings) -> None:
        self._store = store
        inline = store.dialect == "sqlite"
        self._pause_s = settings.peek_s if inline else settings.poll_s
        self._pause_max_s = settings.peek_max_s if inline else settings.poll_max_s
        self._seen: dict[str, int] = {}
        self._calls = 0
        self._sleeping: set[asyncio.Future[None]] = set()

    def call(self) -> None:
        """Whoever waits looks now, and again soon: what is put in a transaction is there when that is committed."""
        self._calls += 1
        for sleeper in self._sleeping:
            _wake(sleeper)

    def found_empty(self, queue: str, arrived: int) -> None:
        """A worker took all there was of a queue, when so many jobs had ever come."""
        self._seen[queue] = arrived

    def found_more(self, queue: str) -> None:
        """A worker could not take all there was."""
        self._seen[queue] = _MORE

    def asked_for(self, queues: Collection[str]) -> None:
        """Of other queues a worker has all it can run, or they are paused: that they have more is no news."""
        for queue in [queue for queue, seen in self._seen.items() if seen == _MORE and queue not in queues]:
            del self._seen[queue]

    async def wait(self, timeout_s: float) -> None:
        """Until jobs may have come, at most so long."""
        now = asyncio.get_running_loop().time
        until, pause_s = now() + timeout_s, self._pause_s
        while True:
            calls = self._calls
            if await self._has_come():
                return
            left_s = until - now()
            if left_s <= 0:
                return
            if calls == self._calls:
                await self._sleep(min(pause_s, left_s))
            pause_s = min(pause_s * 2, self._pause_max_s) if calls == self._calls else _HINT_S

    async def _sleep(self, seconds: float) -> None:
        """Until somebody calls, at most so long. Without `asyncio.timeout`, which costs as much as all the rest."""
        loop = asyncio.get_running_loop()
        sleeper: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(seconds, _wake, sleeper)
        self._sleeping.add(sleeper)
        try:
            await sleeper
        finally:
            self._sleeping.discard(sleeper)
            timer.cancel()

    async def _has_come(self) -> bool:
        rows = await self._store.fetch_all("SELECT queue, arrived FROM dougong_job_queues")
        return self._is_news(dict(cast("list[tuple[str, int]]", rows)))

    def _is_news(self, arrived: Mapping[str, int]) -> bool:
        return any(arrived.get(queue, 0) != seen for queue, seen in self._seen.items())


def _wake(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)
