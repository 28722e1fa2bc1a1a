"""Who learns that a session ended, and how: from the databases to each process of users, from there to all the others.

Between processes there is a list that only grows at its end, one in each process of users; a reader remembers for each
of them how far it has read, so that nothing depends on clocks or on which of them answers.

The databases have no such list: rows commit in another order than their times say, the clocks of those who write
differ, and a bucket that moves takes its rows into the middle of another database. So what ended in the last minute
before the last look is looked at again each time, and now and then everything is.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Sequence

import msgspec

from dougong.clock import Clock
from dougong.errors import Error
from dougong.rpc import EndedSessions
from dougong.shard import ShardedStore
from dougong.store import Row, Store
from dougong.telemetry import counter, get_logger
from shop.users.auth_jwt._session import Session

__all__ = ["EndedFeed", "EndedWatch", "FeedPage"]

log = get_logger(__name__)
_failures = counter(
    "shop_ended_watch_failures_total", "Looks for ended sessions that a database did not answer.", ("shard",)
)

_MARGIN_US = 60_000_000
"""A token is believed some seconds beyond its end, and by clocks that are behind."""
OVERLAP_S = 60.0
"""Longer than a unit may take to commit and than clocks of one system may differ, both together."""
WHOLE_EVERY_S = 300.0
_AT_ONCE = 5000
_PAGE = (
    "SELECT id, access_until_us, ended_us FROM sessions WHERE ended_us >= ? AND (ended_us > ? OR id > ?)"
    " AND access_until_us > ? ORDER BY ended_us, id LIMIT ?"
)
_PATIENCE_S = 5.0
"""For one database; then the others' news are not held up any longer."""


class FeedPage(msgspec.Struct, frozen=True):
    """A piece of a process's list."""

    feed: str
    position: int
    """Ask from here on next time."""
    items: Sequence[tuple[str, int]]
    """(session, time in µs until which its tokens could live)"""
    more: bool


class EndedFeed:
    """What this process knows of ended sessions, in the order in which it learned it; also tells its own `ended`."""

    def __init__(self, ended: EndedSessions, clock: Clock) -> None:
        self.name = secrets.token_hex(8)
        """Another in each process, and after each start."""
        self._ended = ended
        self._clock = clock
        self._items: deque[tuple[str, int]] = deque()
        self._first = 0
        self._known: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._items)

    def learn(self, session_id: int, access_until_us: int) -> None:
        """Once or often."""
        session, until_us = str(session_id), access_until_us + _MARGIN_US
        if until_us <= max(self._clock.now_us(), self._known.get(session, 0)):
            return
        self._known[session] = until_us
        self._items.append((session, until_us))
        self._ended.end(session, until_us)
        self._drop()

    def told(self, session: Session) -> None:
        """The same of a row."""
        self.learn(session.id, session.access_until_us)

    def after(self, position: int, most: int = _AT_ONCE) -> FeedPage:
        """What was learned since a reader was here."""
        self._drop()
        start = max(0, position - self._first)
        items = [self._items[at] for at in range(start, min(start + most, len(self._items)))]
        end = self._first + start + len(items)
        return FeedPage(self.name, end, items, more=end < self._first + len(self._items))

    def _drop(self) -> None:
        """From the front: the order is of learning, so some stay a little longer than they must."""
        now_us = self._clock.now_us()
        while self._items and self._items[0][1] < now_us:
            session, until_us = self._items.popleft()
            self._first += 1
            if self._known.get(session) == until_us:
                del self._known[session]


class EndedWatch:
    """Looks into the databases for sessions that other processes ended. A database that fails is looked at later."""

    def __init__(
        self,
        sharded: ShardedStore,
        feed: EndedFeed,
        clock: Clock,
        *,
        overlap_s: float = OVERLAP_S,
        whole_every_s: float = WHOLE_EVERY_S,
    ) -> None:
        self._sharded = sharded
        self._feed = feed
        self._clock = clock
        self._overlap_us = round(overlap_s * 1e6)
        self._whole_every_s = whole_every_s
        self._since_us: dict[str, int] = {}
        """When the last look that succeeded began, by our clock: not what it found, so that no writer whose clock is
        ahead can make us skip the others."""
        self._whole_at: dict[str, float] = {}

    async def look(self) -> None:
        """Learn what is new, of all databases that own buckets, side by side."""
        async with asyncio.TaskGroup() as group:
            for name in list(self._sharded.owners):
                group.create_task(self._look_into(name))

    async def _look_into(self, name: str) -> None:
        began_us, began = self._clock.now_us(), self._clock.monotonic()
        whole = name not in self._since_us or began >= self._whole_at[name]
        since_us = 0 if whole else min(self._since_us[name], began_us) - self._overlap_us
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await self._read(name, since_us, began_us - _MARGIN_US)
        except (Error, TimeoutError) as error:
            _failures.inc(1, name)
            log.warning("ended sessions of a database are learned later", shard=name, error=str(error))
            return
        self._since_us[name] = began_us
        if whole:
            self._whole_at[name] = began + self._whole_every_s

    async def _read(self, name: str, since_us: int, alive_us: int) -> None:
        """In pages: (ended_us, id) is where one ends. Also of buckets that moved away: ended is ended."""
        at, number = max(1, since_us), 0
        while True:

            async def page(store: Store, at: int = at, number: int = number) -> list[Row]:
                return await store.fetch_all(_PAGE, (at, at, number, alive_us, _AT_ONCE))

            rows = await self._sharded.databases.call(name, page)
            for session_id, access_until_us, ended_us in rows:
                assert isinstance(session_id, int)  # as the migrations declare them
                assert isinstance(access_until_us, int)
                assert isinstance(ended_us, int)
                self._feed.learn(session_id, access_until_us)
                at, number = ended_us, session_id
            if len(rows) < _AT_ONCE:
                return
