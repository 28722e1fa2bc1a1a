"""A process's connection to the hub: what was asked and not answered yet, in order."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from typing import Protocol, cast

import msgspec

from dougong.errors import Invalid
from dougong.gateway.fanout._protocol import Published
from dougong.gateway.fanout.wire import (
    Acked,
    Answered,
    Frames,
    Join,
    Joined,
    Part,
    Ping,
    Publish,
    Since,
    ToHub,
    Writer,
    from_hub,
)
from dougong.gateway.history import Missed, Offset
from dougong.telemetry import get_logger

__all__ = ["Gone", "Line", "Owner"]

_log = get_logger("dougong.gateway")
_UNACKED_BYTES_MAX = 16 * 1024 * 1024
"""Published and not yet acknowledged: who publishes more waits."""


class Gone(Exception):
    """The hub went while it was asked."""


class Owner(Protocol):
    """Who has the connection."""

    def published(self, message: Published) -> None: ...

    def joined(self, line: Line, joined: Joined) -> None: ...

    def gone(self, line: Line) -> None: ...

    def has_room(self) -> None:
        """Who waited to publish may go on."""


class Line(asyncio.Protocol):
    """Ends, for good, when the hub does or does not answer in time."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._frames = Frames()
        self._asked: deque[tuple[asyncio.Future[Offset | None] | asyncio.Future[Missed], float]] = deque()
        self._parts: list[tuple[int, bytes]] = []
        self._joins: Counter[str] = Counter()
        self._unacked_bytes = 0
        self._transport: asyncio.Transport
        self.writer: Writer
        self.over = asyncio.Event()

    @property
    def full(self) -> bool:
        return self._unacked_bytes > _UNACKED_BYTES_MAX

    async def publish(self, record: Publish, size: int) -> Offset | None:
        """Raises `Gone`."""
        future: asyncio.Future[Offset | None] = self._loop.create_future()
        self._unacked_bytes += size
        self._ask(record, future, size)
        try:
            return await future
        finally:
            was_full = self.full
            self._unacked_bytes -= size
            if was_full and not self.full:
                self._owner.has_room()

    async def since(self, record: Since) -> Missed:
        """Raises `Gone`."""
        future: asyncio.Future[Missed] = self._loop.create_future()
        self._ask(record, future, len(record.topic))
        return await future

    def join(self, topic: str, after: Offset | None = None) -> None:
        """The owner is told."""
        self._joins[topic] += 1
        self.writer.say(Join(topic, after), len(topic))

    def tell(self, record: ToHub, size: int) -> None:
        self.writer.say(record, size)

    def check(self, timeout_s: float) -> None:
        """Be sure that somebody is there: cut it when an answer is late, and ask when none is due."""
        now = self._loop.time()
        if self._asked:
            if now - self._asked[0][1] > timeout_s:
                _log.warning("hub_silent", timeout_s=timeout_s)
                self.cut()
        else:
            self._ask(Ping(), self._loop.create_future(), 0)

    def cut(self) -> None:
        """Over, now."""
        if self.over.is_set():
            return
        self.over.set()
        self._transport.abort()
        while self._asked:
            future, _ = self._asked.popleft()
            if not future.done():
                future.set_exception(Gone())
                future.exception()  # of a ping, nobody looks
        self._owner.gone(self)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        self.writer = Writer(self._transport.write, self._loop.call_soon)

    def connection_lost(self, exc: Exception | None) -> None:
        self.cut()

    def data_received(self, data: bytes) -> None:
        if self.over.is_set():
            return
        published, hear = self._owner.published, self._hear
        try:
            for frame in self._frames.feed(data):
                for record in from_hub.decode(frame):
                    if isinstance(record, Published):
                        published(record)
                    else:
                        hear(record)
        except (Invalid, msgspec.MsgspecError, LookupError) as error:
            _log.error("hub_not_understood", error=str(error), remedy="run the same version everywhere")
            self.cut()

    def _hear(self, record: Acked | Answered | Joined | Part) -> None:
        if isinstance(record, Acked):
            self._answer(record.offset)
        elif isinstance(record, Part):
            self._parts.append((record.number, record.data))
        elif isinstance(record, Answered):
            parts, self._parts = self._parts, []
            self._answer(Missed(parts, record.now, record.complete))
        else:
            left = self._joins[record.topic] - 1
            if left > 0:  # the last answer counts: it left between them
                self._joins[record.topic] = left
                return
            del self._joins[record.topic]
            self._owner.joined(self, record)

    def _ask(self, record: ToHub, future: asyncio.Future[Offset | None] | asyncio.Future[Missed], size: int) -> None:
        self._asked.append((future, self._loop.time()))
        self.writer.say(record, size)

    def _answer(self, answer: Offset | Missed | None) -> None:
        future, _ = self._asked.popleft()
        if not future.done():
            future.set_result(answer)  # type: ignore[arg-type]
