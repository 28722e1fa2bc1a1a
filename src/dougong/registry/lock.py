"""Locks with fences, over any registry.

Everybody who wants the lock writes a key on a lease of its own; the oldest key holds it, and each waits for the one
before. So nobody is woken in vain, and who dies goes with its lease.

A lock alone protects nothing: its holder may be stopped for longer than its lease (a pause, a frozen machine), wake up
and write what it decided before, while somebody else holds the lock. So each holder has a `fence`, a number that only
rises, every protected write carries it, and whoever is written to refuses what is older than the newest it has seen.
(Jepsen's analysis of etcd 3.4.3 shows the writes that get through otherwise.)
"""

from __future__ import annotations

import asyncio
import contextlib
import random as random_module
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager

from dougong.clock import BootClock, Clock
from dougong.errors import Conflict, DeadlineExceeded, Error, Invalid, NotFound, Overloaded, Unavailable
from dougong.registry._protocol import Change, ChangeKind, Compacted, Registry
from dougong.registry.keys import check_ttl
from dougong.telemetry import get_logger

__all__ = ["Fence", "Held", "Lock", "lock_prefix"]

TTL_S = 10.0
RENEWALS_PER_TTL = 3
CALL_S_MAX = 5.0
BACKOFF_S_MIN = 0.05
BACKOFF_S_MAX = 2.0


def lock_prefix(name: str) -> str:
    """Where those who want the lock `name` stand.

    >>> lock_prefix("nightly-report")
    '/locks/nightly-report/'
    """
    if not name or "/" in name:
        raise Invalid(f"lock name {name!r} must not be empty or contain '/'", code="invalid_lock_name")
    return f"/locks/{name}/"


class Fence:
    """What stands in front of a protected resource and lets nobody in who is older than somebody already seen.

    In a database it is a column and a condition: `update … set fence = :fence where … and fence <= :fence`.
    """

    def __init__(self) -> None:
        self.newest = 0

    def check(self, fence: int) -> None:
        """Raises `Conflict` (`fenced`)."""
        if fence < self.newest:
            raise Conflict(
                f"fence {fence} is over, {self.newest} holds the lock by now; drop the work and take the lock again",
                code="fenced",
                fence=fence,
                newest=self.newest,
            )
        self.newest = fence


class Held:
    """A place in the queue of a lock; the lock itself, once it comes out of `Lock.acquire`."""

    def __init__(self, registry: Registry, clock: Clock, key: str, lease: int, fence: int, good_until: float) -> None:
        self.key = key
        self.fence = fence
        """Rises from holder to holder: every protected write carries it."""
        self._registry = registry
        self._clock = clock
        self._lease = lease
        self._good_until = good_until
        self._gone = asyncio.Event()
        self._tasks: tuple[asyncio.Task[None], ...] = ()

    @property
    def lost(self) -> bool:
        """Whether it may be somebody else's: the registry said so, or has not renewed it in time by our own clock."""
        return self._gone.is_set() or self._clock.monotonic() >= self._good_until

    async def wait_lost(self) -> None:
        """Return when it is lost."""
        await self._gone.wait()

    def check(self) -> None:
        """Raises `Conflict` (`lock_lost`): stop the work, it may be done by somebody else."""
        if self.lost:
            raise Conflict(f"lock {self.key} is lost; stop, and take it again", code="lock_lost", fence=self.fence)

    async def release(self) -> None:
        """Let the next one have it. If the registry cannot be told, that takes until the lease ends."""
        self._gone.set()
        await _to_the_end(self._leave())

    def _tend(self, ttl_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._tasks = (
            loop.create_task(self._renew(ttl_s), name=f"renew {self.key}"),
            loop.create_task(self._look_out(), name=f"watch {self.key}"),
        )

    async def _leave(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await _revoke(self._registry, self._lease)

    async def _renew(self, ttl_s: float) -> None:
        pause_s = ttl_s / RENEWALS_PER_TTL
        while not self.lost:
            left_s = self._good_until - self._clock.monotonic()
            await asyncio.sleep(min(pause_s, max(0.001, left_s)))
            asked_at = self._clock.monotonic()
            left_s = self._good_until - asked_at
            if left_s <= 0:
                break
            try:
                async with asyncio.timeout(min(CALL_S_MAX, left_s)):
                    granted_s = await self._registry.keep_alive(self._lease)
            except Exception as error:  # noqa: BLE001 (it is ours until its time is up, and then said to be lost)
                _log_fault(error, self.key)
                pause_s = min(ttl_s / RENEWALS_PER_TTL, BACKOFF_S_MAX) / 4
                continue
            if granted_s <= 0:
                break
            self._good_until = asked_at + granted_s
            pause_s = granted_s / RENEWALS_PER_TTL
        self._gone.set()

    async def _look_out(self) -> None:
        """A lease that is revoked, or a key that is deleted, is noticed at once and not at the next renewal."""
        backoff_s = BACKOFF_S_MIN
        following = self.fence + 1
        while not self._gone.is_set():
            try:
                await _deleted(self._registry, self.key, following)
                break
            except Exception as error:  # noqa: BLE001 (it cannot be reached, has forgotten what we have not seen, a fault)
                _log_fault(error, self.key)
                await asyncio.sleep(backoff_s)
                backoff_s = min(BACKOFF_S_MAX, backoff_s * 2)
            try:
                async with asyncio.timeout(CALL_S_MAX):
                    listing = await self._registry.list(self.key)
            except Exception as error:  # noqa: BLE001 (as above)
                _log_fault(error, self.key)
            else:
                if not any(item.create_revision == self.fence for item in listing.items):
                    break
                following = listing.revision + 1
        self._gone.set()


class Lock:
    """One who wants the lock `name`. Whoever looks at the queue sees `value`."""

    def __init__(
        self,
        registry: Registry,
        name: str,
        *,
        ttl_s: float = TTL_S,
        value: bytes = b"",
        clock: Clock | None = None,
        random: random_module.Random | None = None,
    ) -> None:
        check_ttl(ttl_s)
        self._registry = registry
        self._prefix = lock_prefix(name)
        self._ttl_s = ttl_s
        self._value = value
        self._clock: Clock = clock if clock is not None else BootClock()  # a suspended machine's leases end
        self._random = random if random is not None else random_module.Random()

    async def acquire(self, timeout_s: float | None = None) -> Held:
        """Wait for the lock, for ever without a time; to be released. Raises `DeadlineExceeded` (`lock_taken`).

        While the registry cannot be reached it is tried again with jittered back-off. Who gives up, or is cancelled,
        leaves no key behind.
        """
        backoff_s = BACKOFF_S_MIN
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    try:
                        place = await self._queue_up()
                        try:
                            if await self._reach_the_front(place):
                                return place
                        except BaseException:
                            await place.release()
                            raise
                        await place.release()
                    except (Unavailable, Overloaded, NotFound) as error:
                        if error.code == "closed":
                            raise
                    await self._pause(backoff_s)
                    backoff_s = min(BACKOFF_S_MAX, backoff_s * 2)
        except TimeoutError:
            raise DeadlineExceeded(
                f"lock {self._prefix} could not be had within {timeout_s} s; see who stands there", code="lock_taken"
            ) from None

    @asynccontextmanager
    async def hold(self, timeout_s: float | None = None) -> AsyncGenerator[Held]:
        """`acquire`, and release at the end."""
        held = await self.acquire(timeout_s)
        try:
            yield held
        finally:
            await held.release()

    async def _queue_up(self) -> Held:
        asked_at = self._clock.monotonic()
        lease = await self._registry.grant(self._ttl_s)
        key = f"{self._prefix}{lease.id:016x}"
        try:
            fence = await self._registry.create(key, self._value, lease=lease.id)
        except BaseException:  # it may be there all the same; without its lease it is not
            await _to_the_end(_revoke(self._registry, lease.id))
            raise
        place = Held(self._registry, self._clock, key, lease.id, fence, asked_at + lease.ttl_s)
        place._tend(lease.ttl_s)
        return place

    async def _reach_the_front(self, place: Held) -> bool:
        """Wait until nobody is before us; False when our place is lost meanwhile."""
        backoff_s = BACKOFF_S_MIN
        while not place.lost:
            try:
                listing = await self._registry.list(self._prefix)
                if not any(item.key == place.key and item.create_revision == place.fence for item in listing.items):
                    return False
                ahead = [item for item in listing.items if item.create_revision < place.fence]
                if not ahead:
                    return not place.lost
                nearest = max(ahead, key=lambda item: item.create_revision)
                watch = _deleted(self._registry, nearest.key, listing.revision + 1)
                await _until_either(watch, place.wait_lost())
                backoff_s = BACKOFF_S_MIN
            except (Unavailable, Overloaded, Compacted) as error:  # our place in the queue is ours all the same
                if error.code == "closed":
                    raise
                await self._pause(backoff_s)
                backoff_s = min(BACKOFF_S_MAX, backoff_s * 2)
        return False

    async def _pause(self, backoff_s: float) -> None:
        await asyncio.sleep(backoff_s * self._random.uniform(0.5, 1.0))


def _log_fault(error: Exception, key: str) -> None:
    if not isinstance(error, (Error, TimeoutError)):
        get_logger(__name__).error("lock_fault", key=key, exc_info=error)


async def _deleted(registry: Registry, key: str, from_revision: int) -> None:
    """Return when `key` has been deleted at or after a revision."""
    watch: AsyncIterator[Sequence[Change]] = registry.watch(key, from_revision)
    try:
        async for changes in watch:
            if any(change.kind is ChangeKind.DELETE and change.key == key for change in changes):
                return
    finally:
        if isinstance(watch, AsyncGenerator):
            await watch.aclose()
    raise Unavailable(f"the registry ended the watch on {key}", code="watch_ended")


async def _until_either(*works: Coroutine[None, None, None]) -> None:
    """Run all until one ends; its error is raised, the others are cancelled."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


async def _revoke(registry: Registry, lease: int) -> None:
    with contextlib.suppress(Error, TimeoutError):  # then it ends by itself
        async with asyncio.timeout(CALL_S_MAX):
            await registry.revoke(lease)


async def _to_the_end(work: Coroutine[None, None, None]) -> None:
    """Run `work`, which is bounded in time, even if we are cancelled; then say that we were."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
