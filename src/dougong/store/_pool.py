"""Connections for reading one database: lent to one task at a time, kept healthy, and missed when they do not return.

`_pooling` decides, `_leaks` finds who keeps what; here they meet the driver. One timer per pool sweeps: it closes what
nobody needs, names who holds a connection for too long, and tells the metrics how things stand.
"""

from __future__ import annotations

import asyncio
import random as _random
import sys
import time
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Self, TypeVar

import msgspec

from dougong.errors import Internal, Overloaded, Unavailable
from dougong.store._dial import Dialer
from dougong.store._leaks import FRAMES_MAX, SAMPLE, Leak, frames, holder, suspects
from dougong.store._link import Link
from dougong.store._meters import (
    acquire_seconds,
    connections_discarded,
    connections_idle,
    connections_in_use,
    connections_waited_for,
    leaks,
)
from dougong.store._pooling import Pooling, PoolPolicy, Slot, Step, Waiter
from dougong.store._protocol import Row, Value
from dougong.store._server_tx import ServerTx
from dougong.telemetry import get_logger

__all__ = ["Lease", "Pool"]

R = TypeVar("R")
_log = get_logger("dougong.store")

SWEEP_S_MAX = 1.0
SWEEP_AGAIN_S = 0.05
"""Who finds no connection free sweeps at once, unless somebody did just now."""
REPORTS_MAX = 64
_USE = Step.USE


class Lease(msgspec.Struct, weakref=True, eq=False):
    """One connection, lent until `release`, to be used by one task at a time. `async with` releases it in any case."""

    # A Struct, as one is made for every loan: a third of what a class with a constructor costs.
    _pool: Pool
    _slot: Slot | None

    @property
    def link(self) -> Link:
        if self._slot is None:
            raise Internal("a connection was used after it was released", code="lease_over", store=self._pool.name)
        return self._slot.link

    @property
    def first(self) -> bool:
        """Whether this is the connection's first loan: then it was opened a moment ago."""
        return self._slot is not None and self._slot.uses == 1

    async def fetch_all(self, sql: str, parameters: Sequence[Value] = ()) -> list[Row]:
        """All rows of one query."""
        tx = ServerTx(self._pool.dialer.engine, self.link, reads_only=True)
        tx.open()
        return await tx.fetch_all(sql, parameters)

    async def fetch_one(self, sql: str, parameters: Sequence[Value] = ()) -> Row | None:
        """The first row of one query."""
        rows = await self.fetch_all(sql, parameters)
        return rows[0] if rows else None

    def release(self) -> None:
        """Give it back; a connection that broke, or whose statement was cut short, is closed. Again does nothing."""
        slot = self._slot
        if slot is not None:
            self._slot = None
            self._pool.take_back(slot)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None and not issubclass(kind, Exception) and self._slot is not None:
            self._slot.link.abort()  # cancelled: who knows what is still on the wire
        self.release()


class Pool:
    """At most `readers` connections to one database; who finds none free waits, in order, within a deadline.

    Made by `open_pool`; belongs to the loop it was made on. A store on a server has one of its own.
    """

    def __init__(
        self,
        dialer: Dialer,
        *,
        name: str,
        waiting_max: int,
        now: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = _random.random,
    ) -> None:
        options = dialer.engine.options
        self.name = name
        self.dialer = dialer
        self._loop = asyncio.get_running_loop()
        self._now = now
        self._core = Pooling(
            PoolPolicy(options.readers, waiting_max, life_s=options.life_s, idle_s=options.idle_s), random
        )
        self._slots: dict[Slot, None] = {}
        self._leak_after_s = options.leak_after_s
        self._reports: deque[Leak] = deque(maxlen=REPORTS_MAX)
        self._wary = False
        self._swept = -1.0
        self._timer: asyncio.TimerHandle | None = None
        """Sweeps, while there are connections."""
        self._deadline: asyncio.TimerHandle | None = None
        """Ends the wait of the first in line, if not earlier then later."""
        self._closed = False

    @property
    def in_use(self) -> int:
        """Places taken: connections lent, or being opened."""
        return self._core.in_use

    @property
    def idle(self) -> int:
        return len(self._core.idle)

    @property
    def waiting(self) -> int:
        return self._core.waiting

    @property
    def leaks(self) -> tuple[Leak, ...]:
        """The latest 64 reports of connections that were not given back in time; each was logged, too."""
        return tuple(self._reports)

    async def acquire(self, *, skip: int = 0) -> Lease:
        """A connection that works. Raises `Unavailable` (`no_connection_free`, `connect_failed`, ...), `Overloaded`.

        `skip` callers are left out when it is told who has it.
        """
        core = self._core
        now = self._now()
        step, slot = core.take(now)
        if step is not _USE or slot is None:
            slot = await self._prepare(step, slot, now)
            now = self._now()
        slot.uses = uses = slot.uses + 1
        slot.since = now
        slot.link.last_sql = ""
        task = asyncio.current_task(self._loop)
        assert task is not None  # coroutines of asyncio run in one
        slot.task = weakref.ref(task)
        slot.task_name = task.get_name()
        frame = sys._getframe(skip + 1)
        slot.code = frame.f_code
        slot.instruction = frame.f_lasti
        slot.callers = frames(frame.f_back, FRAMES_MAX) if uses % SAMPLE == 1 or self._wary else ()
        lease = Lease(self, slot)
        slot.lease = weakref.ref(lease)
        return lease

    async def use(self, work: Callable[[Link], Awaitable[R]]) -> R:
        """Run `work` on a connection. It may run again: when a connection turns out to have been dead already."""
        while True:
            lease = await self.acquire(skip=2)  # ourselves, and the store that works for somebody
            first = lease.first
            try:
                async with lease:
                    return await work(lease.link)
            except Unavailable as fault:
                if first or fault.code not in ("connection_lost", "schema_changed"):
                    raise

    def take_back(self, slot: Slot) -> None:
        """A lease is over (see `Lease.release`)."""
        if slot.suspected:
            self._came_back(slot)
        slot.lease = None
        sound = slot.link.usable
        if not self._core.put(slot, sound=sound):
            self._discard(slot, "closed" if sound else "broken")

    def sweep(self) -> None:
        """Close what nobody needs, report who keeps what for too long; the pool's timer does it every second."""
        self._swept = now = self._now()
        for slot in self._core.reap(now):
            self._discard(slot, "idle" if now < slot.until else "old")
        for slot, leak in suspects(self._slots, self.name, self._leak_after_s, now):
            self._report(slot, leak)
        self._wary = any(slot.suspected for slot in self._slots)
        self._show()

    def close(self) -> None:
        """Drop what is idle; what is in use is dropped when it comes back."""
        self._closed = True
        for slot in self._core.close():
            self._discard(slot, "closed")
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._show()

    async def _wait(self, now: float) -> tuple[Step, Slot | None]:
        """Until there is a place; what was picked then."""
        if now - self._swept > SWEEP_AGAIN_S:  # what was dropped is there for the taking
            self.sweep()
            step, slot = self._core.take(now)
            if step is not Step.WAIT:
                return step, slot
        options = self.dialer.engine.options
        woken: asyncio.Future[None] = self._loop.create_future()
        until = self._loop.time() + options.acquire_timeout_s
        waiter = Waiter(until, lambda: None if woken.done() else woken.set_result(None))
        if not self._core.queue(waiter):
            raise Overloaded(
                f"store {self.name} has {self._core.waiting} readers waiting; send less or later",
                code="store_queue_full",
                retry_after_s=0.1,
                store=self.name,
            )
        if self._deadline is None:
            self._deadline = self._loop.call_at(until, self._expire)
        try:
            await woken
        except BaseException:
            self._core.withdraw(waiter)
            raise
        if not waiter.has_place:
            raise Unavailable(
                f"store {self.name}: no connection came free within {options.acquire_timeout_s:g} s; all"
                f" {options.readers} for reading are in use, {holder(self._slots, self._now())}; read less at once, or"
                " raise readers in the database's URL",
                code="no_connection_free",
                retry_after_s=1.0,
                store=self.name,
            )
        return self._core.pick(self._now())

    def _expire(self) -> None:
        next_ = self._core.expire(self._loop.time())
        self._deadline = None if next_ is None else self._loop.call_at(next_, self._expire)

    async def _prepare(self, step: Step, slot: Slot | None, now: float) -> Slot:
        """What was picked is not ready for use; the place is given up when nothing comes of it."""
        if step is Step.WAIT:
            step, slot = await self._wait(now)
        try:
            if self._closed:
                raise self._over()
            while step is not Step.USE or slot is None:
                if slot is None:
                    slot = await self._open()
                    break
                if step is Step.CLOSE:
                    self._discard(slot, "old")
                elif await self._is_alive(slot):
                    break
                step, slot = self._core.pick(self._now())
        except BaseException:
            self._core.leave()
            raise
        acquire_seconds.observe(self._now() - now, self.name)
        return slot

    async def _open(self) -> Slot:
        link = await self.dialer.connect(reads_only=True)
        if self._closed:
            link.abort()
            raise self._over()
        slot = self._core.add(link, self._now())
        self._slots[slot] = None
        if self._timer is None:
            self._timer = self._loop.call_later(min(SWEEP_S_MAX, self._leak_after_s / 2), self._sweep_again)
        return slot

    def _over(self) -> Unavailable:
        return Unavailable(f"store {self.name} is closed", code="closed", store=self.name)

    async def _is_alive(self, slot: Slot) -> bool:
        try:
            async with asyncio.timeout(self.dialer.engine.options.connect_timeout_s):
                await slot.link.control("SELECT 1")
        except Exception:  # noqa: BLE001 (whatever it says, it is not what we asked for)
            self._discard(slot, "dead")
            return False
        except BaseException:
            self._discard(slot, "cancelled")
            raise
        return True

    def _discard(self, slot: Slot, why: str) -> None:
        slot.link.abort()
        self._slots.pop(slot, None)
        connections_discarded.inc(1, self.name, why)

    def _show(self) -> None:
        connections_in_use.set(self.in_use, self.name)
        connections_idle.set(self.idle, self.name)
        connections_waited_for.set(self.waiting, self.name)

    def _sweep_again(self) -> None:
        self._timer = None
        self.sweep()
        if self._slots:
            self._timer = self._loop.call_later(min(SWEEP_S_MAX, self._leak_after_s / 2), self._sweep_again)

    def _report(self, slot: Slot, leak: Leak) -> None:
        self._reports.append(leak)
        leaks.inc(1, self.name, leak.kind)
        _log.warning(
            "a connection was not given back in time",
            store=leak.database,
            kind=leak.kind,
            task=leak.task,
            acquired_at="; ".join(leak.stack),
            now_at="; ".join(leak.now_at),
            held_s=leak.held_s,
            sql=leak.sql,
        )
        if leak.kind == "dropped":  # nobody can use it any more
            slot.lease = None
            self._discard(slot, "dropped")
            self._core.leave()

    def _came_back(self, slot: Slot) -> None:
        slot.suspected = False
        _log.info(
            "a connection came back after all",
            store=self.name,
            task=slot.task_name,
            held_s=round(self._now() - slot.since, 3),
            sql=slot.link.last_sql,
        )
