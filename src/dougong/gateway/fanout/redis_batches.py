"""What waits for Redis: taken in batches, since a round trip costs the same for one and for a hundred."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

from dougong.errors import Overloaded
from dougong.gateway.history import Missed, Offset
from dougong.gateway.outbox import Slow

__all__ = ["Batches", "Fetch", "Joined", "Publish"]

_BYTES_MAX = 16 * 1024 * 1024
_BATCH_MAX = 256
_BATCH_BYTES = 1024 * 1024


class Publish:
    """A message that waits for its turn."""

    __slots__ = ("data", "future", "keep", "sent", "size", "slow", "topic")

    def __init__(self, topic: str, data: bytes, slow: Slow, *, keep: bool) -> None:
        self.topic = topic
        self.data = data
        self.slow = slow
        self.keep = keep
        self.size = len(topic) + len(data)
        self.sent = False
        self.future: asyncio.Future[Offset | None] = asyncio.get_running_loop().create_future()


class Joined:
    """A topic of this process."""

    __slots__ = ("epoch", "number", "seen", "settled", "waiting")

    def __init__(self) -> None:
        self.epoch = ""
        """Empty as long as it is not known where the topic stands."""
        self.number = 0
        """The last that came here."""
        self.seen = 0
        """The highest that passed while what was missed was being fetched; it is fetched, too."""
        self.settled = False
        """Nothing is being fetched: what comes is delivered."""
        self.waiting: list[asyncio.Future[None]] = []


class Fetch:
    """What a topic missed `after` an offset, or where it stands only (None): for one who asked, or for this process."""

    __slots__ = ("after", "future", "joined", "size", "topic")

    def __init__(
        self,
        topic: str,
        after: Offset | None,
        *,
        future: asyncio.Future[Missed] | None = None,
        joined: Joined | None = None,
    ) -> None:
        self.topic = topic
        self.after = after
        self.size = 1
        self.future = future
        self.joined = joined


class Sized(Protocol):
    size: int


T = TypeVar("T", bound=Sized)


class Batches(Generic[T]):
    """A queue, in order."""

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._bytes = 0
        self._some = asyncio.Event()

    def add(self, item: T) -> None:
        """Raises `Overloaded` (`fan_out_full`)."""
        if self._bytes > _BYTES_MAX:
            raise Overloaded(
                f"{self._bytes} bytes wait to be published already; publish less, or see why Redis is slow",
                code="fan_out_full",
                retry_after_s=1.0,
            )
        self._items.append(item)
        self._bytes += item.size
        self._some.set()

    def put_back(self, items: Iterable[T]) -> None:
        """In front, in their order."""
        for item in reversed(tuple(items)):
            self._items.appendleft(item)
            self._bytes += item.size
        self._some.set()

    async def take(self) -> list[T]:
        """At least one."""
        while not self._items:
            self._some.clear()
            await self._some.wait()
        batch: list[T] = []
        size = 0
        while self._items and len(batch) < _BATCH_MAX and size < _BATCH_BYTES:
            item = self._items.popleft()
            self._bytes -= item.size
            size += item.size
            batch.append(item)
        return batch

    def take_all(self) -> list[T]:
        items = list(self._items)
        self._items.clear()
        self._bytes = 0
        return items
