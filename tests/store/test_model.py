"""Group commit against a model: whatever units fail, however they are grouped, the database is what a dictionary is."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import TypeVar, cast

import uvloop
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dougong.errors import Conflict
from dougong.store import Migration, Store, Tx, open_store
from dougong.store.sqlite import SqliteStore

R = TypeVar("R")
SCHEMA = """
CREATE TABLE model (k INTEGER PRIMARY KEY, v INTEGER);
CREATE TABLE child (k INTEGER PRIMARY KEY, parent INTEGER REFERENCES model DEFERRABLE INITIALLY DEFERRED);
"""

# What a unit does, in order. `fail` raises, `clash` meets a unique constraint and gives up, `caught` meets one and goes
# on, `wreck` makes SQLite roll the whole transaction back, `orphan` breaks a rule that is checked at commit.
_keys = st.integers(0, 5)
_step = st.one_of(
    st.tuples(st.just("put"), _keys),
    st.tuples(st.just("add"), _keys),
    st.tuples(st.just("delete"), _keys),
    st.tuples(st.sampled_from(["fail", "clash", "caught", "wreck", "orphan"]), _keys),
)
_unit = st.tuples(st.lists(_step, max_size=4), st.booleans())


class Failed(Exception):
    pass


def expected(model: dict[int, int], steps: list[tuple[str, int]], mark: int) -> dict[int, int] | None:
    """The model after a unit, or None when the unit must fail."""
    after = dict(model)
    orphan = False
    for what, key in steps:
        match what:
            case "put":
                after[key] = mark
            case "add":
                if key in after:
                    after[key] += 1
            case "delete":
                after.pop(key, None)
            case "fail":
                return None
            case "clash" | "wreck":
                if key in after:
                    return None
                after[key] = mark
            case "caught":
                after.setdefault(key, mark)
            case _:
                orphan = True
    return None if orphan else after


async def perform(tx: Tx, steps: list[tuple[str, int]], mark: int) -> None:
    for what, key in steps:
        match what:
            case "put":
                await tx.execute("INSERT OR REPLACE INTO model VALUES (?, ?)", (key, mark))
            case "add":
                await tx.execute("UPDATE model SET v = v + 1 WHERE k = ?", (key,))
            case "delete":
                await tx.execute("DELETE FROM model WHERE k = ?", (key,))
            case "fail":
                raise Failed
            case "clash":
                await tx.execute("INSERT INTO model VALUES (?, ?)", (key, mark))
            case "wreck":
                await tx.execute("INSERT OR ROLLBACK INTO model VALUES (?, ?)", (key, mark))
            case "caught":
                try:
                    await tx.execute("INSERT INTO model VALUES (?, ?)", (key, mark))
                except Conflict:
                    pass
            case _:
                await tx.execute("INSERT INTO child (parent) VALUES (-1)")


class GroupCommit(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self.model: dict[int, int] = {}
        self.mark = 0
        self.store: Store = self.run(self.open())
        self.run(self.store.migrate("model", [Migration(1, "model", SCHEMA)]))

    def run(self, work: Coroutine[object, object, R]) -> R:
        return self.runner.run(asyncio.wait_for(work, 30))

    async def open(self) -> Store:
        return await open_store(f"sqlite:///{Path(self.folder.name)}/model.db?synchronous=off")

    @rule(units=st.lists(_unit, max_size=12), size=st.sampled_from([1, 3, 512]))
    def write(self, units: list[tuple[list[tuple[str, int]], bool]], size: int) -> None:
        """Several callers at once; those marked are cancelled before their unit begins."""
        cast(SqliteStore, self.store)._writer._group_max = size
        outcomes = self.run(self.submit(units))
        for place, ((steps, cancelled), outcome) in enumerate(zip(units, outcomes, strict=True)):
            after = None if cancelled else expected(self.model, steps, self.mark + place)
            if cancelled:
                assert isinstance(outcome, asyncio.CancelledError)
            elif after is None:
                assert isinstance(outcome, Failed | Conflict), (steps, outcome)
            else:
                assert outcome is None, (steps, outcome)
                self.model = after
        self.mark += len(units)

    async def submit(self, units: list[tuple[list[tuple[str, int]], bool]]) -> list[BaseException | None]:
        def unit(place: int) -> Coroutine[object, object, None]:
            return self.store.write(lambda tx: perform(tx, units[place][0], self.mark + place))

        tasks = [asyncio.create_task(unit(place)) for place in range(len(units))]
        await asyncio.sleep(0)
        for task, (_, cancelled) in zip(tasks, units, strict=True):
            if cancelled:
                task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    @rule()
    def reopen(self) -> None:
        self.run(self.store.close())
        self.store = self.run(self.open())

    @invariant()
    def same(self) -> None:
        rows = self.run(self.store.fetch_all("SELECT k, v FROM model"))
        assert {row[0]: row[1] for row in rows} == self.model
        assert self.run(self.store.fetch_all("SELECT * FROM child")) == []

    def teardown(self) -> None:
        self.run(self.store.close())
        self.runner.close()
        self.folder.cleanup()


TestGroupCommit = GroupCommit.TestCase
TestGroupCommit.settings = settings(max_examples=min(settings().max_examples, 200), stateful_step_count=15)
