"""The claim about pools: who keeps a connection is named while there are others left, for next to nothing."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import shutil
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress

from dougong.evidence import Claim, Figures, MariaDB, NotShown, Ratio, Server, Setting, Threshold, median
from dougong.store import Leak, Lease, Pool, open_pool

__all__ = ["KINDS", "db_pool", "leaked_until_named"]

PLACES = 8
LEAK_AFTER_S = 0.1
PACE_S = 0.04
"""Between two leaks: the threshold passes before the pool is dry, but not before the next leak."""
_CHECKOUTS = 20_000
_TURN_S = 0.1
"""Of reading in one way, then in the other: what else the machine does in a second meets both alike."""


class Kept:
    """What the leaks hold on to, so that it can be undone afterwards."""

    def __init__(self) -> None:
        self.leases: list[Lease] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def give_back(self) -> None:
        for task in self.tasks:
            task.cancel()
            with suppress(asyncio.CancelledError, LookupError):
                await task
        while self.leases:
            self.leases.pop().release()


async def forgotten(pool: Pool, kept: Kept) -> None:
    lease = await pool.acquire()
    await lease.fetch_one("SELECT 'forgotten'")
    kept.leases.append(lease)


async def hung(pool: Pool, _: Kept) -> None:
    async with await pool.acquire() as lease:
        await lease.fetch_one("SELECT 'hung'")
        await asyncio.Event().wait()


async def raised(pool: Pool, _: Kept) -> None:
    lease = await pool.acquire()
    await lease.fetch_one("SELECT 'raised'")
    raise LookupError


async def cancelled(pool: Pool, kept: Kept) -> None:
    lease = await pool.acquire()
    kept.leases.append(lease)
    asyncio.get_running_loop().call_later(0.01, kept.tasks[-1].cancel)
    await lease.fetch_one("SELECT 'cancelled', sleep(5)")


async def long_reader(pool: Pool, _: Kept) -> None:
    async with await pool.acquire() as lease:
        await lease.fetch_one("SELECT 'long_reader', sleep(1)")


KINDS: tuple[Callable[[Pool, Kept], Awaitable[None]], ...] = (forgotten, hung, raised, cancelled, long_reader)
"""Ways to keep a connection. Each function says its name in its task, its stack and its statement."""


async def leaked_until_named(url: str, leak: Callable[[Pool, Kept], Awaitable[None]]) -> tuple[int, str]:
    """Leak one connection after the other; how many were gone when the first was named, and what was wrong then."""
    name = leak.__name__
    pool = open_pool(f"{url}&readers={PLACES}&leak_after_s={LEAK_AFTER_S}&acquire_timeout_s=1", name="leaky")
    kept = Kept()

    async def borrower() -> None:
        await leak(pool, kept)

    try:
        for count in range(1, PLACES + 1):
            task = asyncio.create_task(borrower(), name=f"{name} {count}")
            kept.tasks.append(task)
            await asyncio.sleep(PACE_S)
            if pool.leaks:
                problem = _misnamed(pool.leaks[0], name)
                await kept.give_back()
                async with asyncio.timeout(10), await pool.acquire() as lease:
                    if await lease.fetch_one("SELECT 42") != (42,):
                        problem = f"{name}: the next borrower got another's rows"
                return count, problem
        return PLACES, f"{name}: the pool was dry before anybody was named"
    finally:
        await kept.give_back()
        pool.close()


def _misnamed(leak: Leak, name: str) -> str:
    told = {
        "task": leak.task.startswith(name),
        "stack": any(name in place for place in leak.stack),
        "database": leak.database == "leaky",
        "statement": name in leak.sql,
    }
    missing = [what for what, is_told in told.items() if not is_told]
    return f"{name}: {', '.join(missing)} not named in {leak}" if missing else ""


class _Reads:
    """Reads of a reader per connection, in a closed loop."""

    def __init__(self) -> None:
        self.done = 0
        self.wall_s = self.cpu_s = 0.0

    @property
    def per_s(self) -> float:
        return self.done / self.wall_s

    @property
    def per_cpu_s(self) -> float:
        return self.done / self.cpu_s

    async def load(self, read: Callable[[], Awaitable[None]]) -> None:
        until = time.monotonic() + _TURN_S

        async def reader() -> None:
            while time.monotonic() < until:
                await read()
                self.done += 1

        started, cpu = time.monotonic(), time.process_time()
        await asyncio.gather(*(reader() for _ in range(PLACES)))
        self.wall_s += time.monotonic() - started
        self.cpu_s += time.process_time() - cpu


class _Experiment:
    """A server; SQLAlchemy's pool for what a checkout costs, a bare queue of connections for what reading comes to."""

    def __init__(self, url: str, setting: Setting) -> None:
        self._url = url
        # The same connections for both sides: which core a server's thread sits on makes more difference than a pool.
        self._pool = open_pool(f"{url}&readers={PLACES}", name="healthy")
        self._rounds = 3 if setting.quick else 15
        self._problems: list[str] = []

    async def baseline(self, pair: int) -> Figures:
        return {"checkout_us": _sqlalchemy_us()}

    async def ours(self, pair: int) -> Figures:
        bare, pooled = _Reads(), _Reads()
        for which in (bare, pooled, pooled, bare) * self._rounds:
            await (self._read_pooled if which is pooled else self._read_bare)(which)
        named, worst = 0, 0
        for kind in KINDS:
            count, problem = await leaked_until_named(self._url, kind)
            named += not problem
            worst = max(worst, count)
            if problem:
                self._problems.append(problem)
        return {
            "checkout_us": await _checkout_us(self._pool),
            "kinds_named": named,
            "leaked_when_named": worst,
            "reads_per_s": pooled.per_s,
            "bare_reads_per_s": bare.per_s,
            "reads_kept": pooled.per_s / bare.per_s,
            "reads_kept_per_cpu_s": pooled.per_cpu_s / bare.per_cpu_s,
        }

    async def _read_bare(self, reads: _Reads) -> None:
        free = asyncio.LifoQueue[Lease]()
        leases = [await self._pool.acquire() for _ in range(PLACES)]
        for lease in leases:
            free.put_nowait(lease)

        async def read() -> None:
            lease = await free.get()
            try:
                await lease.fetch_one("SELECT 1")
            finally:
                free.put_nowait(lease)

        try:
            await reads.load(read)
        finally:
            for lease in leases:
                lease.release()

    async def _read_pooled(self, reads: _Reads) -> None:
        async def read() -> None:
            lease = await self._pool.acquire()
            try:
                await lease.fetch_one("SELECT 1")
            finally:
                lease.release()

        await reads.load(read)

    def close(self) -> None:
        self._pool.close()

    async def verify(self) -> Sequence[str]:
        return self._problems


async def _checkout_us(pool: Pool) -> float:
    """CPU of one acquire and release, all marks for the leak detector included."""
    times: list[float] = []
    for _ in range(5):
        started = time.process_time()
        for _ in range(_CHECKOUTS):
            (await pool.acquire()).release()
        times.append((time.process_time() - started) / _CHECKOUTS * 1e6)
    return median(times)


def _sqlalchemy_us() -> float:
    """The same of SQLAlchemy's pool, over a connection that does nothing, and nothing to reset."""
    from sqlalchemy.pool import QueuePool

    pool = QueuePool(_Idle, pool_size=PLACES, reset_on_return=None)  # type: ignore[arg-type]
    pool.connect().close()
    times: list[float] = []
    gc.collect()
    for _ in range(5):
        started = time.process_time()
        for _ in range(_CHECKOUTS):
            pool.connect().close()
        times.append((time.process_time() - started) / _CHECKOUTS * 1e6)
    return median(times)


class _Idle:
    def close(self) -> None: ...

    def rollback(self) -> None: ...


@asynccontextmanager
async def _on_mariadb(setting: Setting) -> AsyncGenerator[_Experiment]:
    if importlib.util.find_spec("asyncmy") is None:
        raise NotShown("the driver is missing; pip install 'dougong[mysql]'")
    folder = setting.workdir / "mariadb"
    folder.mkdir()
    setting.say("starting MariaDB")
    server: Server | None = None
    try:
        server = await asyncio.to_thread(MariaDB, folder.absolute())
        with server.database() as url:
            experiment = _Experiment(url, setting)
            try:
                yield experiment
            finally:
                experiment.close()
    finally:
        if server is not None:
            server.remove()
        shutil.rmtree(folder, ignore_errors=True)


db_pool = Claim(
    name="db-pool",
    title="Who keeps a connection is named before the pool is dry",
    situation=(
        "Connections do not come back: somebody forgot one, an exception went past its release, a task hangs while it "
        "has one. The pool runs dry, everybody waits, and the errors name those who wait, not who took them."
    ),
    task=(
        f"Name task, stack, statement and database of five kinds of leak while some of {PLACES} connections are left, "
        "when one leaks every 40 ms, for at most 2 µs of CPU per checkout."
    ),
    action=(
        "A loan leaves marks on its connection's record: a task's name, the caller, the time; one sweep finds what was "
        "kept too long, by a task that has ended, or by nobody. Connections are checked before use unless used just "
        "now. A reader per connection, beside a bare queue of the same connections."
    ),
    result=(
        "{ours[kinds_named]:.0f} of 5 kinds named when {ours[leaked_when_named]:.0f} of 8 connections were gone; "
        "{ours[checkout_us]:.2f} µs per checkout (SQLAlchemy's pool, which names nobody: {baseline[checkout_us]:.2f}); "
        "{ours[reads_per_s]:,.0f} reads/s beside {ours[bare_reads_per_s]:,.0f}/s over a bare queue of these "
        "connections: {ours[reads_kept]:.2f} ×, per second of CPU {ours[reads_kept_per_cpu_s]:.2f} ×."
    ),
    experiment=_on_mariadb,
    ratios={"checkout": Ratio("checkout_us", "checkout_us")},
    thresholds=(
        Threshold("ours.kinds_named", at_least=len(KINDS)),
        Threshold("ours.leaked_when_named", at_most=PLACES - 1),
        Threshold("ours.checkout_us", at_most=2.0),
        Threshold("ours.reads_kept", at_least=0.9),
        Threshold("ours.reads_kept_per_cpu_s", at_least=0.9),
    ),
)
