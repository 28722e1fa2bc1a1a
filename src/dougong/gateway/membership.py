"""Members of topics, here and in the fan-out: the two must never disagree for longer than a message takes.

The fan-out has to be told of the first member and of the last. Both take time, and meanwhile others come and go, so:
somebody who joins waits for a leaving that is under way, a leaving is given up when anybody wants the topic, and what
is published while a new member asks for what he missed is held back for him. He then gets all of it once, in order.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager

import msgspec

from dougong.errors import Forbidden, Overloaded
from dougong.gateway.connection import Connection, Phase
from dougong.gateway.fanout import FanOut, Published
from dougong.gateway.history import Missed, Offset
from dougong.gateway.topics import Topics

__all__ = ["Changed", "Joined", "Membership"]

HELD_MAX = 1000
Spawn = Callable[[Coroutine[None, None, None]], object]
Changed = Callable[[Connection, str, bool], None]
"""(connection, topic, joined): a membership began or ended."""


class Joined(msgspec.Struct, frozen=True):
    """A new member, who is to be told: this first, then what he missed, then what was held back."""

    offset: Offset
    complete: bool
    missed: list[tuple[int, bytes]]
    held: list[Published]


class Membership:
    """All memberships of a process."""

    def __init__(self, topics: Topics[Connection], fan_out: FanOut, spawn: Spawn, changed: Changed) -> None:
        self._topics = topics
        self._fan_out = fan_out
        self._spawn = spawn
        self._changed = changed
        self._wanted: Counter[str] = Counter()
        """Joinings under way."""
        self._leaving: dict[str, asyncio.Event] = {}
        self._held: dict[str, list[deque[Published]]] = {}
        self._coming: Counter[int] = Counter()
        """Joinings under way, by the connection's serial number."""
        self._turns: dict[tuple[int, str], tuple[asyncio.Lock, list[None]]] = {}

    async def join(self, connection: Connection, topic: str, since: Offset | None, *, topics_max: int) -> Joined:
        """Make it a member. What is returned has to be sent before anything is awaited: then nothing comes between.

        Raises `Overloaded` (`too_many_topics`), `Forbidden` (`connection_over`), and what the fan-out raises.
        """
        serial = connection.serial
        has = connection.topics
        count = 0 if has is None else len(has) if isinstance(has, set) else 1
        again = topic == has or (isinstance(has, set) and topic in has)
        coming = self._coming[serial]  # of the same topic, too: each keeps a task, and asks for what it missed
        if coming >= topics_max or (not again and count + coming >= topics_max):
            raise Overloaded(f"over {topics_max} topics of one connection", code="too_many_topics")
        self._coming[serial] += 1
        try:
            async with self._turn(serial, topic):
                return await self._join(connection, topic, since)
        finally:
            self._coming[serial] -= 1
            if not self._coming[serial]:
                del self._coming[serial]

    async def leave(self, connection: Connection, topic: str) -> None:
        """It is no member any more; after a joining that is under way."""
        async with self._turn(connection.serial, topic):
            if self._topics.unsubscribe(connection, topic):
                self._changed(connection, topic, False)
                self._let_go(topic)

    def leave_all(self, connection: Connection) -> None:
        """It is over."""
        has = connection.topics
        self._topics.drop(connection)
        for topic in () if has is None else tuple(has) if isinstance(has, set) else (has,):
            self._changed(connection, topic, False)
            self._let_go(topic)

    def overhear(self, published: Published) -> None:
        """For members that are about to join."""
        for held in self._held.get(published.topic, ()):
            held.append(published)

    async def _join(self, connection: Connection, topic: str, since: Offset | None) -> Joined:
        self._wanted[topic] += 1
        held: deque[Published] = deque(maxlen=HELD_MAX)
        self._held.setdefault(topic, []).append(held)
        was = self._topics.unsubscribe(connection, topic)
        joined = False
        try:
            while (leaving := self._leaving.get(topic)) is not None:
                await leaving.wait()
            offset = await self._fan_out.join(topic)
            missed = Missed([], offset, complete=True)
            if since is not None:
                missed = await self._fan_out.since(topic, since)
            if connection.phase not in (Phase.HANDSHAKE, Phase.OPEN):
                raise Forbidden("the connection is over", code="connection_over")
            joined = True
        finally:
            self._unhold(topic, held)
            self._wanted[topic] -= 1
            if not self._wanted[topic]:
                del self._wanted[topic]
            over = connection.phase not in (Phase.HANDSHAKE, Phase.OPEN)
            if (joined or was) and not over:
                self._topics.subscribe(connection, topic)
                if not was:
                    self._changed(connection, topic, True)
            elif was:
                self._changed(connection, topic, False)
            self._let_go(topic)
        now = missed.now
        after = [
            one for one in held if one.offset is None or one.offset.epoch != now.epoch or one.offset.number > now.number
        ]
        return Joined(now, missed.complete and len(held) < HELD_MAX, missed.messages, after)

    def _unhold(self, topic: str, held: deque[Published]) -> None:
        all_ = self._held[topic]
        all_[:] = [one for one in all_ if one is not held]  # two that are empty are equal
        if not all_:
            del self._held[topic]

    def _let_go(self, topic: str) -> None:
        if not self._topics.count(topic) and not self._wanted[topic] and topic not in self._leaving:
            over = self._leaving[topic] = asyncio.Event()
            self._spawn(self._leave(topic, over))

    async def _leave(self, topic: str, over: asyncio.Event) -> None:
        try:
            if not self._topics.count(topic) and not self._wanted[topic]:
                await self._fan_out.leave(topic)
        finally:
            del self._leaving[topic]
            over.set()

    @asynccontextmanager
    async def _turn(self, serial: int, topic: str) -> AsyncGenerator[None]:
        """One connection's joinings and leavings of one topic happen in the order in which they were asked for."""
        lock, waiting = self._turns.setdefault((serial, topic), (asyncio.Lock(), []))
        waiting.append(None)
        try:
            async with lock:
                yield
        finally:
            waiting.pop()
            if not waiting:
                del self._turns[serial, topic]
