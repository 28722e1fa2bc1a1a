"""A small world for the coordinator's tests: virtual time, databases that keep what was committed, a faulty network.

Everything random comes from one seeded generator, so a seed is a story that can be told again.
"""

from __future__ import annotations

import asyncio
import random
import selectors
import sqlite3
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

import msgspec

from dougong.errors import Unavailable
from dougong.store import Migration, Row, Tx, Unit, Value
from dougong.tcc import Hold, Participant, ParticipantService, Refusal
from dougong.tcc.wire import BranchReply, Forget, Forgotten, Settle, TryBatch

R = TypeVar("R")


class Take(msgspec.Struct, frozen=True):
    sku: str
    quantity: int


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time passes only when nobody has anything to do; what is ready runs in seeded order."""

    def __init__(self, rng: random.Random) -> None:
        self.now_s = 1000.0
        self._rng = rng
        super().__init__(_Waits(self))

    def time(self) -> float:
        return self.now_s

    def shuffle(self) -> None:
        ready: Any = self._ready  # type: ignore[attr-defined]
        if len(ready) > 1:
            handles = list(ready)
            self._rng.shuffle(handles)
            ready.clear()
            ready.extend(handles)


class _Waits(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise RuntimeError("everybody waits for somebody: the simulated world has stopped")
        self._loop.now_s += max(timeout, 0.0)
        self._loop.shuffle()
        return []


class VirtualClock:
    """A node's wall clock may be off."""

    def __init__(self, loop: VirtualLoop, offset_s: float = 0.0) -> None:
        self._loop = loop
        self.offset_s = offset_s

    def now_us(self) -> int:
        return int((self._loop.now_s + self.offset_s) * 1e6) + 1_700_000_000_000_000

    def monotonic(self) -> float:
        return self._loop.now_s


class MemoryTx:
    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    async def execute(self, sql: str, parameters: Sequence[Value] = ()) -> int:
        return max(self._db.execute(sql, parameters).rowcount, 0)

    async def execute_many(self, sql: str, rows: Iterable[Sequence[Value]]) -> int:
        return max(self._db.executemany(sql, rows).rowcount, 0)

    async def fetch_all(self, sql: str, parameters: Sequence[Value] = ()) -> list[Row]:
        return self._db.execute(sql, parameters).fetchall()

    async def fetch_one(self, sql: str, parameters: Sequence[Value] = ()) -> Row | None:
        row: Row | None = self._db.execute(sql, parameters).fetchone()
        return row


class MemoryStore:
    """Committed or not, nothing between; `pause` says how long a write takes before and after the commit."""

    def __init__(self, name: str, pause: Callable[[], float] | None = None) -> None:
        self.name = name
        self.dialect = "sqlite"
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        weakref.finalize(self, self.db.close)  # worlds are made by the thousand and nobody closes them
        self.full: Callable[[], bool] = lambda: False
        """Whether the disk is full just now."""
        self.pause = pause

    async def write(self, unit: Unit[R]) -> R:
        await self._wait()
        if self.full():
            raise Unavailable(f"no space left for {self.name}", code="disk_full")
        self.db.execute("BEGIN")
        try:
            result = drive(unit(MemoryTx(self.db)))
        except BaseException:
            self.db.execute("ROLLBACK")
            raise
        self.db.execute("COMMIT")
        await self._wait()
        return result

    async def read(self, unit: Unit[R]) -> R:
        return drive(unit(MemoryTx(self.db)))

    async def fetch_all(self, sql: str, parameters: Sequence[Value] = ()) -> list[Row]:
        return self.db.execute(sql, parameters).fetchall()

    async def fetch_one(self, sql: str, parameters: Sequence[Value] = ()) -> Row | None:
        row: Row | None = self.db.execute(sql, parameters).fetchone()
        return row

    async def migrate(self, owner: str, migrations: Sequence[Migration]) -> int:
        done = f"{owner}-done"
        if self.db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (done,)).fetchone():
            return 0
        for migration in migrations:
            self.db.executescript(migration.sql)
        self.db.execute(f'CREATE TABLE "{done}" (x)')
        return len(migrations)

    async def check(self) -> None:
        pass

    async def close(self) -> None:
        pass

    def rows(self, sql: str) -> list[Any]:
        return self.db.execute(sql).fetchall()

    async def _wait(self) -> None:
        if self.pause is not None:
            await asyncio.sleep(self.pause())


def drive(work: Awaitable[R]) -> R:
    """Run to the end something that waits for nothing."""
    steps = work.__await__()
    try:
        next(steps)
    except StopIteration as stop:
        result: R = stop.value
        return result
    raise AssertionError("a unit waited for something else than its transaction")


SHELF = """
CREATE TABLE shelf (sku TEXT PRIMARY KEY, available INTEGER, frozen INTEGER DEFAULT 0, sold INTEGER DEFAULT 0);
"""


class Shelf(Participant[Take], service="test.v1.Shelf", payload=Take):
    """Stock as simple as can be: no CHECK, so that a mistake shows in the books instead of failing the call."""

    poison: frozenset[int] = frozenset()
    """Transactions whose confirm fails."""

    async def try_(self, tx: Tx, holds: Sequence[Hold[Take]]) -> Sequence[Refusal | None]:
        answers: list[Refusal | None] = []
        for hold in holds:
            took = await tx.execute(
                "UPDATE shelf SET available = available - ?, frozen = frozen + ? WHERE sku = ? AND available >= ?",
                (hold.payload.quantity, hold.payload.quantity, hold.payload.sku, hold.payload.quantity),
            )
            answers.append(None if took else Refusal("insufficient_stock", f"not enough of {hold.payload.sku}"))
        return answers

    async def confirm(self, tx: Tx, holds: Sequence[Hold[Take]]) -> None:
        if any(hold.transaction in self.poison for hold in holds):
            raise RuntimeError("poison")
        await self._move(tx, "UPDATE shelf SET frozen = frozen - ?, sold = sold + ? WHERE sku = ?", holds)

    async def cancel(self, tx: Tx, holds: Sequence[Hold[Take]]) -> None:
        await self._move(tx, "UPDATE shelf SET frozen = frozen - ?, available = available + ? WHERE sku = ?", holds)

    async def _move(self, tx: Tx, sql: str, holds: Sequence[Hold[Take]]) -> None:
        await tx.execute_many(sql, [(hold.payload.quantity, hold.payload.quantity, hold.payload.sku) for hold in holds])


class Purse(Shelf, service="test.v1.Purse", payload=Take):
    """A second participant."""


class Network:
    """Carries calls to participants: late, twice, not at all, or all the way but without the answer."""

    def __init__(self, rng: random.Random, *, faults: float) -> None:
        self._rng = rng
        self.faults = faults
        """Probability of each fault per call; 0 heals the network."""
        self.down: set[str] = set()
        self.calls: list[tuple[str, str, int]] = []
        """(participant, call, number of transactions), as carried."""
        self._deliveries: set[asyncio.Task[Any]] = set()

    def client(self, name: str, service: ParticipantService[Any]) -> FaultyClient:
        return FaultyClient(self, name, service)

    async def carry(self, name: str, call: str, work: Callable[[], Coroutine[Any, Any, R]], items: int) -> R:
        rng = self._rng
        await asyncio.sleep(rng.random() * 0.05)
        if name in self.down:
            raise Unavailable(f"{name} is down", code="connection_lost")
        if rng.random() < self.faults:
            await asyncio.sleep(rng.choice((0.0, 1.0, 10.0)))
            raise Unavailable("the request was lost", code="connection_lost")
        self.calls.append((name, call, items))
        if rng.random() < self.faults:  # a copy arrives some day
            _ = self._deliver(work, rng.choice((0.0, 0.1, 2.0, 8.0, 60.0)))
        if rng.random() < self.faults:  # the caller gives up long before it arrives
            _ = self._deliver(work, rng.choice((3.5, 6.0, 30.0)))
            await asyncio.sleep(20.0)
            raise Unavailable("the answer never came", code="connection_lost")
        result = await self._deliver(work, 0.0)  # shielded: a caller that gives up stops no delivery
        await asyncio.sleep(rng.random() * 0.05)
        if rng.random() < self.faults:
            raise Unavailable("the answer was lost", code="connection_lost")
        return result

    async def quiet(self) -> None:
        """Wait until everything under way has arrived."""
        while self._deliveries:
            await asyncio.wait(set(self._deliveries))

    def _deliver(self, work: Callable[[], Coroutine[Any, Any, R]], delay_s: float) -> asyncio.Future[R]:
        async def later() -> R:
            await asyncio.sleep(delay_s)
            return await work()

        task = asyncio.get_running_loop().create_task(later())
        self._deliveries.add(task)
        task.add_done_callback(self._arrived)
        return asyncio.shield(task)

    def _arrived(self, task: asyncio.Task[Any]) -> None:
        self._deliveries.discard(task)
        if not task.cancelled():
            task.exception()


class FaultyClient:
    def __init__(self, network: Network, name: str, service: ParticipantService[Any]) -> None:
        self._network = network
        self._name = name
        self._service = service

    async def try_(self, request: TryBatch) -> BranchReply:
        count = len(request.transactions)
        return await self._network.carry(self._name, "try", lambda: self._service.try_(request), count)

    async def confirm(self, request: Settle) -> BranchReply:
        count = len(request.transactions)
        return await self._network.carry(self._name, "confirm", lambda: self._service.confirm(request), count)

    async def cancel(self, request: Settle) -> BranchReply:
        count = len(request.transactions)
        return await self._network.carry(self._name, "cancel", lambda: self._service.cancel(request), count)

    async def forget(self, request: Forget) -> Forgotten:
        return await self._network.carry(self._name, "forget", lambda: self._service.forget(request), 0)


def in_virtual_time(rng: random.Random, story: Callable[[VirtualLoop], Coroutine[Any, Any, R]]) -> R:
    """Run a story to its end; tasks it leaves behind are cancelled."""
    loop = VirtualLoop(rng)
    try:
        task = loop.create_task(story(loop))
        result = loop.run_until_complete(task)
        left = asyncio.all_tasks(loop)
        for other in left:
            other.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left))
        return result
    finally:
        loop.close()
