"""What was published lately, so that who was away for a moment misses nothing: bounded, by offset.

Each topic counts its messages from 1; a client that comes back names the last offset it has and gets what came after.
When that is not here any more, or the count was begun anew (another `epoch`: the process restarted, or topics were
forgotten meanwhile), it is told so and loads the state by other means. Silence would be the one wrong answer.
"""

from __future__ import annotations

import random as _random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator

import msgspec

__all__ = ["History", "HistoryPolicy", "Missed", "Offset"]


class Offset(msgspec.Struct, frozen=True, array_like=True):
    """A place in a topic."""

    epoch: str
    number: int


class HistoryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How much is kept of each topic, and of how many."""

    messages_max: int = 100
    age_s: float = 300.0
    topics_max: int = 100_000
    bytes_max: int = 256 * 1024 * 1024
    """Beyond either, the topic in which nothing was published for longest is forgotten."""


class Missed(msgspec.Struct, frozen=True):
    """What a client that comes back has missed."""

    messages: list[tuple[int, bytes]]
    """(offset, data) in order."""
    now: Offset
    complete: bool
    """False when some of it is lost: the client has to load the state by other means."""


class _Topic:
    __slots__ = ("epoch", "last", "messages")

    def __init__(self, epoch: str) -> None:
        self.epoch = epoch
        self.last = 0
        self.messages: deque[tuple[float, bytes]] = deque()


class History:
    """Recent messages by topic. Times are monotonic seconds, passed in."""

    def __init__(self, policy: HistoryPolicy, *, random: Callable[[], float] = _random.random) -> None:
        self._policy = policy
        self.life = f"{int(random() * (1 << 48)):012x}"
        self.forgotten = 0
        self._topics: OrderedDict[str, _Topic] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._topics)

    def add(self, topic: str, data: bytes, now: float) -> Offset:
        """Keep a message; where it stands."""
        kept = self._topics.get(topic)
        if kept is None:
            kept = self._topics[topic] = _Topic(self._epoch)
        kept.last += 1
        self._put(topic, kept, data, now)
        return Offset(kept.epoch, kept.last)

    def position(self, topic: str) -> Offset:
        """Where the topic stands now: what a client that subscribes remembers."""
        kept = self._topics.get(topic)
        return Offset(self._epoch, 0) if kept is None else Offset(kept.epoch, kept.last)

    def since(self, topic: str, offset: Offset, now: float) -> Missed:
        """All that came after `offset`."""
        here = self.position(topic)
        kept = self._topics.get(topic)
        if kept is None:
            return Missed([], here, complete=offset == here)
        self._trim(kept, now)
        if offset.epoch != kept.epoch or offset.number > kept.last:
            return Missed([], here, complete=False)
        first = kept.last - len(kept.messages) + 1
        complete = offset.number + 1 >= first
        messages = [(number, data) for number, (_, data) in enumerate(kept.messages, first) if number > offset.number]
        return Missed(messages, here, complete)

    # for whoever keeps it where it outlives the process

    def all(self) -> Iterator[tuple[float, str, bytes | None, Offset]]:
        """Time, topic, data and place of each message, topics in the order of their last ones; of a topic that has none
        left, its place without data."""
        for topic, kept in self._topics.items():
            if not kept.messages:
                yield 0.0, topic, None, Offset(kept.epoch, kept.last)
            first = kept.last - len(kept.messages) + 1
            for number, (now, data) in enumerate(kept.messages, first):
                yield now, topic, data, Offset(kept.epoch, number)

    def resume(self, life: str, forgotten: int) -> None:
        """Be the one that was; then `put` what it had."""
        self.life = life
        self.forgotten = forgotten

    def put(self, now: float, topic: str, data: bytes | None, offset: Offset) -> None:
        """Take over a message with its place; each topic's in order."""
        kept = self._topics.get(topic)
        if kept is None or kept.epoch != offset.epoch:
            if kept is not None:
                self.bytes -= sum(len(data) for _, data in kept.messages)
            kept = self._topics[topic] = _Topic(offset.epoch)
        kept.last = offset.number
        if data is not None:
            self._put(topic, kept, data, now)

    @property
    def _epoch(self) -> str:
        """Of topics that begin now. One that was forgotten begins in another epoch than it had."""
        return f"{self.life}.{self.forgotten}"

    def _put(self, topic: str, kept: _Topic, data: bytes, now: float) -> None:
        self._topics.move_to_end(topic)
        kept.messages.append((now, data))
        self.bytes += len(data)
        self._trim(kept, now)
        policy = self._policy
        while len(self._topics) > policy.topics_max or (self.bytes > policy.bytes_max and len(self._topics) > 1):
            _, gone = self._topics.popitem(last=False)
            self.forgotten += 1
            self.bytes -= sum(len(data) for _, data in gone.messages)

    def _trim(self, kept: _Topic, now: float) -> None:
        messages, oldest = kept.messages, now - self._policy.age_s
        while messages and (len(messages) > self._policy.messages_max or messages[0][0] < oldest):
            self.bytes -= len(messages.popleft()[1])
