"""A database that survives its process: it has what was committed, and nothing else.

A write takes time before the moment of durability and after it, so that a crash falls on either side: before it the
unit is lost, after it the unit is kept though nobody was told. A unit itself runs at that one moment, since a real one
awaits nothing but its transaction. Now and then it is run twice, as a real store may.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import msgspec

from dougong.errors import Unavailable
from dougong.simulation.faults import Chaos, FaultSource
from dougong.simulation.loop import Owner
from dougong.store import MemoryDatabase, Migration, Row, Store, Tx, Unit, Value

__all__ = ["Database"]

R = TypeVar("R")

_TWICE = 0.02
"""Of the units run twice: a unit that counts on running once is wrong on every engine."""
_SLOW_S_MAX = 5.0
_SYNC_EVERY = 8
"""Commits, about, between two syncs of a database that does not sync each."""

_set_up: dict[Callable[[MemoryDatabase], object], bytes] = {}

_SAYS = {
    "disk_full": "the disk is full",
    "locked": "another process holds its lock",
    "io_error": "the disk does not answer",
}


class Database:
    """Made by `World.database`. Processes reach it through `Process.store`; the story may look at it directly."""

    def __init__(
        self,
        name: str,
        chaos: Chaos,
        source: FaultSource,
        note: Callable[[str, str], None],
        *,
        synced: bool,
    ) -> None:
        self.name = name
        self.memory = MemoryDatabase(name)
        """What is in it, at once and without any fault: for setting up and for checks."""
        self.gone = False
        """Whether nothing can be read or written just now."""
        self._chaos = chaos
        self._source = source
        self._random = source.random.random
        self._note = note
        self._kinds = (
            (chaos.disk_full, "disk_full"),
            (chaos.disk_locked, "locked"),
            (chaos.write_slow, "slow write"),
        )
        self._commits = 0
        self._synced: bytes | None = None if synced else b""
        """The content at the last sync, where not every commit is one."""
        self._unsynced = 0

    def store(self, process: StoreProcess) -> Store:
        """A `Store` for one process."""
        return _ProcessStore(self, process)

    def rows(self, sql: str, parameters: Sequence[Value] = ()) -> list[Row]:
        """All rows of a query, as an observer from outside the world sees them."""
        return self.memory.fetch_all(sql, parameters)

    def rows_as(self, kind: type[R], sql: str, parameters: Sequence[Value] = ()) -> list[R]:
        """The same with types: `rows_as(tuple[int, str], "SELECT id, name FROM users")`."""
        return [msgspec.convert(row, kind) for row in self.memory.fetch_all(sql, parameters)]

    def has_table(self, name: str) -> bool:
        """Whether there is such a table yet."""
        return bool(self.memory.fetch_all("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (name,)))

    def set_up(self, steps: Callable[[MemoryDatabase], object]) -> None:
        """Have it contain what `steps`, a module's function, puts into it: before the world begins, and without faults.

        The function runs once in a process; later worlds get a copy of what came of it.
        """
        dump = _set_up.get(steps)
        if dump is None:
            fresh = MemoryDatabase(self.name)
            steps(fresh)
            dump = _set_up[steps] = fresh.dump()
        self.memory.restore(dump)

    def power_lost(self) -> None:
        """What was not synced is gone."""
        if self._synced is not None and self._unsynced:
            self.memory.restore(self._synced)
            self._note(self.name, f"lost {self._unsynced} commits that were not synced")
            self._unsynced = 0

    def draw(self) -> tuple[float, float, str, bool]:
        """(wait before, wait after, what goes wrong, run twice) of a write: drawn all at once, whatever comes of it."""
        draw, chaos = self._random, self._chaos
        before_s, after_s, twice = draw() * chaos.write_s, draw() * chaos.write_s, draw() < _TWICE
        fault = self._source.strike(self._kinds)
        if fault is None:
            return before_s, after_s, "", twice
        if fault[0] == "slow write":
            return before_s + fault[1] * _SLOW_S_MAX, after_s, "", twice
        return before_s, after_s, fault[0], twice

    def check(self) -> None:
        if self.gone:
            raise self.unavailable("io_error")

    def unavailable(self, code: str) -> Unavailable:
        return Unavailable(f"database {self.name}: {_SAYS[code]}", code=code, retry_after_s=1.0, path=self.name)

    def committed(self, process: StoreProcess) -> None:
        self._commits += 1
        self._note(process.name, f"commit {self.name} {self._commits}")
        if self._synced is not None:
            self._unsynced += 1
            if self._random() < 1 / _SYNC_EVERY:
                self._synced = self.memory.dump()
                self._unsynced = 0


class StoreProcess(Owner, Protocol):
    """What a store has to know of the process that uses it."""

    @property
    def name(self) -> str:
        """Its node's."""

    def check(self) -> None:
        """Raise if it is dead."""

    def now_us(self) -> int:
        """Its wall clock."""


class _Undo(Exception):
    """Nothing of this run of a unit is to be kept."""


class _ProcessStore:
    """One process's handle. Of a dead process nothing gets through any more."""

    dialect = "sqlite"

    def __init__(self, database: Database, process: StoreProcess) -> None:
        self._database = database
        self._process = process
        self._closed = False

    @property
    def name(self) -> str:
        return self._database.name

    async def write(self, unit: Unit[R]) -> R:
        self._look()
        database = self._database
        before_s, after_s, wrong, twice = database.draw()
        await asyncio.sleep(before_s)
        database.check()
        if wrong:
            raise database.unavailable(wrong)
        if twice:
            self._rehearse(unit)
        result = database.memory.write(unit)
        database.committed(self._process)
        await asyncio.sleep(after_s)
        return result

    async def read(self, unit: Unit[R]) -> R:
        self._look()
        self._database.check()
        return self._database.memory.read(unit)

    async def fetch_all(self, sql: str, parameters: Sequence[Value] = ()) -> list[Row]:
        self._look()
        self._database.check()
        return self._database.memory.fetch_all(sql, parameters)

    async def fetch_one(self, sql: str, parameters: Sequence[Value] = ()) -> Row | None:
        self._look()
        self._database.check()
        return self._database.memory.fetch_one(sql, parameters)

    async def migrate(self, owner: str, migrations: Sequence[Migration]) -> int:
        self._look()
        database = self._database
        before_s, after_s, wrong, _ = database.draw()
        await asyncio.sleep(before_s)
        database.check()
        if wrong:
            raise database.unavailable(wrong)
        applied = database.memory.migrate(owner, migrations, self._process.now_us())
        if applied:
            database.committed(self._process)
        await asyncio.sleep(after_s)
        return applied

    async def check(self) -> None:
        self._look()
        self._database.check()

    async def close(self) -> None:
        self._closed = True

    def _look(self) -> None:
        self._process.check()
        if self._closed:
            raise Unavailable(f"store {self.name} is closed", code="closed", store=self.name)

    def _rehearse(self, unit: Unit[R]) -> None:
        """Run the unit and undo it."""

        async def rehearsal(tx: Tx) -> None:
            await unit(tx)
            raise _Undo

        try:
            self._database.memory.write(rehearsal)
        except _Undo:
            pass
