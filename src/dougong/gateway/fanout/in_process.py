"""The fan-out of a gateway that is alone: a call."""

from __future__ import annotations

import random as _random
import time
from collections.abc import Callable

from dougong.gateway.fanout._protocol import Deliver, Lost, Published, check_size
from dougong.gateway.history import History, HistoryPolicy, Missed, Offset
from dougong.gateway.outbox import Slow

__all__ = ["InProcess"]


class InProcess:
    """Nothing is between who publishes and who gets it, so nothing is lost but what the history forgets."""

    def __init__(
        self,
        policy: HistoryPolicy | None = None,
        *,
        now: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self._history = History(policy if policy is not None else HistoryPolicy(), random=random)
        self._now = now
        self._deliver: Deliver | None = None
        self._joined: set[str] = set()

    async def start(self, deliver: Deliver, lost: Lost) -> None:
        self._deliver = deliver

    async def close(self) -> None:
        self._deliver = None

    async def join(self, topic: str) -> Offset:
        self._joined.add(topic)
        return self._history.position(topic)

    async def leave(self, topic: str) -> None:
        self._joined.discard(topic)

    async def publish(self, topic: str, data: bytes, *, slow: Slow, keep: bool) -> Offset | None:
        check_size(topic, data)
        offset = self._history.add(topic, data, self._now()) if keep else None
        if self._deliver is not None and topic in self._joined:
            self._deliver(Published(topic, data, offset, slow))
        return offset

    async def since(self, topic: str, offset: Offset) -> Missed:
        return self._history.since(topic, offset, self._now())
