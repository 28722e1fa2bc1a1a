"""Messages with many members: a part of them a turn of the loop, and each part once for all that waits for it.

While nothing else is under way a message costs a system call a member. When it comes while earlier ones are being told,
it joins them where they wait, so the more is published, the less each message costs, and none waits longer than one
round through all members takes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from dougong.gateway import messages
from dougong.gateway._metrics import delivered as _delivered
from dougong.gateway._metrics import untold as _untold
from dougong.gateway.crowd import Part, Telling
from dougong.gateway.frames import encode_text
from dougong.gateway.outbox import Slow
from dougong.gateway.settings import GatewaySettings
from dougong.gateway.topics import Member, Topics
from dougong.telemetry import get_logger

__all__ = ["Broadcasts"]

M = TypeVar("M", bound=Member)
_log = get_logger("dougong.gateway")
_PART_BYTES = 16
"""What it takes to know that a part is to be told: a place in its list, and its share of the queue."""
_WRITE_BYTES_MAX = 64 * 1024
"""Of one member, before others have their turn."""


class Broadcasts(Generic[M]):
    """Each topic's messages in order; `write_all(members, told)` says how many deliveries that was.

    When too much waits, nothing more does: what is published then is not told, and its members are told that it is
    lost once they have had what waited before it. Who has an offset asks for it, and gets it from the history.
    """

    def __init__(
        self,
        topics: Topics[M],
        write_all: Callable[[Sequence[M], Sequence[Telling]], int],
        settings: GatewaySettings,
        soon: Callable[[Callable[[], None]], object],
    ) -> None:
        self._topics = topics
        self._write_all = write_all
        self._bytes_max = settings.broadcasts_bytes_max
        self._soon = soon
        self._queue: deque[tuple[str, Part[M]]] = deque()
        """Parts for which something waits, each once."""
        self._full = False
        self.waiting_bytes = 0

    def tell(self, topic: str, frame: bytes, slow: Slow) -> None:
        """All members: now when they are few, and nothing of the topic is under way; else in their turn."""
        telling = Telling(topic, frame, slow)
        crowd = self._topics.crowd(topic)
        if crowd is None:
            self._tell(self._topics.members(topic), [telling])
        elif len(crowd.parts) == 1 and not crowd.parts[0].waiting:
            self._tell(tuple(crowd), [telling])
        elif self._queue and self.waiting_bytes + self._size(telling, len(crowd.parts)) > self._bytes_max:
            self._lose(topic, crowd.parts)
        else:
            self._wait(telling, crowd.parts)

    def _wait(self, telling: Telling, parts: list[Part[M]]) -> None:
        idle = not self._queue
        for part in parts:
            if not part.waiting:
                self._queue.append((telling.topic, part))
            part.waiting.append(telling)
        telling.parts = len(parts)
        self.waiting_bytes += self._size(telling, len(parts))
        if idle:
            self._soon(self._go_on)

    def _lose(self, topic: str, parts: list[Part[M]]) -> None:
        """One word about it is enough, as long as it was not told: who asks then gets all that is kept."""
        _untold.inc(1)
        if not self._full:
            self._full = True
            _log.error(
                "broadcasts_wait",
                topic=topic,
                waiting_bytes=self.waiting_bytes,
                remedy="publish less, spread members over more processes, or raise broadcasts_bytes_max",
            )
        unaware = [part for part in parts if not (part.waiting and part.waiting[-1].lost)]
        if unaware:
            frame = encode_text(messages.lost(topic))
            self._wait(Telling(topic, frame, Slow.LATEST, lost=True), unaware)

    def _go_on(self) -> None:
        topic, part = self._queue.popleft()
        told = self._take(part)
        try:
            self._tell(tuple(part.members), told)
        finally:  # a bug met by one part must not silence all that is told after it
            self._over(told)
            if part.waiting:
                self._queue.append((topic, part))
            else:
                crowd = self._topics.crowd(topic)
                if crowd is not None:
                    crowd.told(part)
            if self._queue:
                self._soon(self._go_on)
            else:
                self._full = False

    def _take(self, part: Part[M]) -> list[Telling]:
        """What goes out in one write."""
        count, size = 0, 0
        for one in part.waiting:
            size += len(one.frame)
            if count and size > _WRITE_BYTES_MAX:
                break
            count += 1
        told, part.waiting = part.waiting[:count], part.waiting[count:]
        return told

    def _over(self, told: list[Telling]) -> None:
        for one in told:
            one.parts -= 1
            self.waiting_bytes -= _PART_BYTES if one.parts else self._size(one, 1)

    def _size(self, telling: Telling, parts: int) -> int:
        return len(telling.frame) + _PART_BYTES * parts

    def _tell(self, members: tuple[M, ...], told: list[Telling]) -> None:
        _delivered.inc(self._write_all(members, told))
