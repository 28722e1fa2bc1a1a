"""What was published to a swarm's sessions: counted, with how long it took, and parsed once each."""

from __future__ import annotations

import time
from collections import Counter

import msgspec

from dougong.evidence.latency import Latencies
from dougong.evidence.swarm.options import Counted

__all__ = ["Message", "News", "Read"]

_READS_MAX = 64
"""Different ones that are known by sight."""


class Message(msgspec.Struct, frozen=True):
    topic: str
    at_us: int
    """When it was published; 0 when it does not say."""


class Read(msgspec.Struct):
    """What came in one read; of what is told to many, all but the first are known by sight."""

    messages: list[Message]
    count: int = 0
    """How often it came since the last `add_up`."""


class News:
    """Whoever reads looks into `known` first, and counts what he finds there."""

    def __init__(self) -> None:
        self.known: dict[bytes, Read] = {}
        self._topics: Counter[str] = Counter()
        self._latency = Latencies()
        self._first_us = self._last_us = 0

    def learn(self, data: bytes, messages: list[Message]) -> None:
        """The first of its kind: all that it is are these messages."""
        if len(self.known) == _READS_MAX:
            self._add(self.known.pop(next(iter(self.known))))
        self.known[data] = read = Read(messages, 1)
        self._add(read)

    def came(self, message: Message, count: int = 1) -> None:
        """Just now, and in a read with other things."""
        now = time.monotonic_ns() // 1000
        self._first_us = self._first_us or now
        self._last_us = now
        self._topics[message.topic] += count
        if message.at_us:
            self._latency.record((now - message.at_us) / 1e6, count)

    def add_up(self) -> None:
        """What was counted came just now."""
        for read in self.known.values():
            self._add(read)

    def counted(self) -> Counted:
        """All since the last time."""
        counted = Counted(
            messages=dict(self._topics), first_us=self._first_us, last_us=self._last_us, latency=self._latency.buckets()
        )
        self._topics.clear()
        self._latency = Latencies()
        self._first_us = self._last_us = 0
        return counted

    def _add(self, read: Read) -> None:
        count, read.count = read.count, 0
        if count:
            for message in read.messages:
                self.came(message, count)
