"""A registry inside one process: for tests and for systems that fit into one process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from dougong.clock import Clock, SystemClock
from dougong.errors import Unavailable
from dougong.registry._protocol import Change, Lease, Listing
from dougong.registry.keys import check_from_revision, check_key, check_ttl, check_value
from dougong.registry.keyspace import HISTORY_REVISIONS_MAX, KeySpace


class MemoryRegistry:
    """`KeySpace` behind the `Registry` protocol. Nothing runs while nobody watches.

    With a clock that is moved by hand, an expiry is noticed by the next call of any method.
    """

    def __init__(self, clock: Clock | None = None, *, history_revisions_max: int = HISTORY_REVISIONS_MAX) -> None:
        self._clock: Clock = clock if clock is not None else SystemClock()
        self._keys = KeySpace(history_revisions_max=history_revisions_max)
        self._waiters: dict[asyncio.Future[None], None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    async def grant(self, ttl_s: float) -> Lease:
        check_ttl(ttl_s)
        now = self._enter()
        lease = self._keys.grant(ttl_s, now)
        self._arm()
        return lease

    async def keep_alive(self, lease: int) -> float:
        now = self._enter()
        return self._keys.keep_alive(lease, now)

    async def revoke(self, lease: int) -> None:
        self._enter()
        self._keys.revoke(lease)
        self._wake()

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        check_key(key)
        check_value(key, value)
        self._enter()
        revision = self._keys.put(key, value, lease)
        self._wake()
        return revision

    async def create(self, key: str, value: bytes, *, lease: int = 0) -> int:
        check_key(key)
        check_value(key, value)
        self._enter()
        revision = self._keys.create(key, value, lease)
        self._wake()
        return revision

    async def delete(self, key: str) -> bool:
        self._enter()
        removed = self._keys.delete(key)
        self._wake()
        return removed

    async def list(self, prefix: str) -> Listing:
        self._enter()
        return self._keys.list(prefix)

    async def watch(self, prefix: str, from_revision: int) -> AsyncIterator[Sequence[Change]]:
        check_from_revision(from_revision)
        self._enter()
        following = from_revision
        while not self._closed:
            for group in self._keys.changes(prefix, following):
                yield group
                following = group[0].revision + 1
            # A consumer may have suspended us for long: wait only when nothing came meanwhile.
            if self._keys.revision < following or not self._keys.changes(prefix, following):
                following = max(following, self._keys.revision + 1)
                await self._changed()

    async def compact(self, revision: int) -> None:
        self._enter()
        self._keys.compact(revision)

    async def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wake()

    def _enter(self) -> float:
        if self._closed:
            raise Unavailable("the in-memory registry is closed", code="closed")
        now = self._clock.monotonic()
        self._expire(now)
        return now

    def _expire(self, now: float) -> None:
        before = self._keys.revision
        self._keys.expire(now)
        if self._keys.revision != before:
            self._wake()

    async def _changed(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = None
        self._arm()
        try:
            await waiter
        finally:
            self._waiters.pop(waiter, None)

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    def _arm(self) -> None:
        """See to the next expiry while somebody watches; renewals in between only make the timer fire for nothing."""
        deadline = self._keys.next_deadline()
        if deadline is None or not self._waiters:
            return
        loop = asyncio.get_running_loop()
        due = loop.time() + max(0.001, deadline - self._clock.monotonic())
        if self._timer is not None:
            if self._timer.when() <= due:
                return
            self._timer.cancel()
        self._timer = loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._expire(self._clock.monotonic())
        self._arm()
