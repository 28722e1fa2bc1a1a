"""Disks: what was committed is there after a crash, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest

from dougong.errors import Conflict, Internal, Unavailable
from dougong.simulation import Chaos, Process, World
from dougong.store import MemoryDatabase, Migration, Tx

R = TypeVar("R")
TABLE = Migration(1, "t", "CREATE TABLE t (id INTEGER PRIMARY KEY)")


def on_a_node(work: Callable[[Process], Coroutine[Any, Any, R]], *, seed: int = 1, chaos: Chaos | None = None) -> R:
    """Run `work` in a process, and return what it returns."""
    world = World(seed, chaos=chaos)
    result: list[R] = []

    async def main() -> None:
        async def process_main(process: Process) -> None:
            result.append(await work(process))

        world.node("n").start(process_main)
        while not result and not world.failures:
            await asyncio.sleep(0.1)

    world.run(main())
    assert world.failures == []
    return result[0]


async def insert(tx: Tx, id_: int) -> int:
    return await tx.execute("INSERT INTO t VALUES (?)", (id_,))


def test_a_store_keeps_the_protocol() -> None:
    async def work(process: Process) -> list[object]:
        store = process.store()
        seen: list[object] = [
            store.name,
            store.dialect,
            await store.migrate("t", [TABLE]),
            await store.migrate("t", [TABLE]),
        ]
        seen.append(await store.write(lambda tx: insert(tx, 1)))
        with pytest.raises(Conflict) as caught:
            await store.write(lambda tx: insert(tx, 1))
        seen += [caught.value.code, await store.fetch_all("SELECT id FROM t")]
        seen.append(await store.read(lambda tx: tx.fetch_one("SELECT count(*) FROM t")))
        with pytest.raises(Internal, match="reads"):
            await store.read(lambda tx: insert(tx, 2))
        await store.check()
        await store.close()
        with pytest.raises(Unavailable, match="closed"):
            await store.fetch_one("SELECT 1")
        return seen

    assert on_a_node(work) == ["n", "sqlite", 1, 0, 1, "unique_violated", [(1,)], (1,)]


def test_a_unit_that_raises_leaves_nothing() -> None:
    async def work(process: Process) -> list[Any]:
        store = process.store()
        await store.migrate("t", [TABLE])

        async def half(tx: Tx) -> None:
            await insert(tx, 1)
            raise ValueError("half")

        with pytest.raises(ValueError, match="half"):
            await store.write(half)
        return await store.fetch_all("SELECT id FROM t")

    assert on_a_node(work) == []


def test_a_unit_that_waits_is_refused_as_on_a_real_disk() -> None:
    async def work(process: Process) -> str:
        async def waits(tx: Tx) -> None:
            await asyncio.sleep(1.0)

        with pytest.raises(Internal) as caught:
            await process.store().write(waits)
        return caught.value.code

    assert on_a_node(work) == "unit_suspended"


def test_a_crash_falls_before_or_after_the_moment_of_durability() -> None:
    outcomes: set[tuple[int, int]] = set()
    for seed in range(60):
        world = World(seed)
        told: list[int] = []

        async def write(process: Process, told: list[int] = told) -> None:
            await process.store().write(lambda tx: insert(tx, 1))
            told.append(1)

        async def main(world: World = world, write: Any = write) -> None:
            world.database("n").memory.migrate("t", [TABLE], 0)
            world.node("n").start(write)
            world.node("n").crash(after_callbacks=world.random.randint(1, 5))
            await asyncio.sleep(1.0)

        world.run(main())
        outcomes.add((len(world.database("n").rows("SELECT id FROM t")), len(told)))
    assert outcomes == {(0, 0), (1, 0), (1, 1)}  # told and lost: never


def test_without_a_sync_a_crash_loses_what_was_acknowledged() -> None:
    lost = 0
    for seed in range(20):
        world = World(seed)
        told: list[int] = []

        async def write(process: Process, told: list[int] = told) -> None:
            store = process.store("books")
            await store.migrate("t", [TABLE])
            for id_ in range(20):
                await store.write(lambda tx, i=id_: insert(tx, i))  # type: ignore[misc]
                told.append(id_)

        async def main(world: World = world, write: Any = write) -> None:
            world.database("books", synced=False)
            world.node("n").start(write)
            await asyncio.sleep(0.15)
            world.node("n").crash()

        world.run(main())
        books = world.database("books")
        kept = len(books.rows("SELECT id FROM t")) if books.has_table("t") else 0
        assert kept <= len(told) + 1
        lost += kept < len(told)
    assert lost > 5


@pytest.mark.parametrize(
    ("chaos", "code"),
    [(Chaos(disk_full=1.0), "disk_full"), (Chaos(disk_locked=1.0), "locked")],
)
def test_a_disk_in_trouble_says_so_and_keeps_nothing(chaos: Chaos, code: str) -> None:
    async def work(process: Process) -> tuple[str, list[Any]]:
        process.node.world.database("n").memory.migrate("t", [TABLE], 0)
        with pytest.raises(Unavailable) as caught:
            await process.store().write(lambda tx: insert(tx, 1))
        return caught.value.code, await process.store().fetch_all("SELECT id FROM t")

    assert on_a_node(work, chaos=chaos) == (code, [])


def test_a_disk_that_is_gone_comes_back() -> None:
    async def work(process: Process) -> list[str]:
        store, seen = process.store(), list[str]()
        for _ in range(200):
            await asyncio.sleep(0.1)
            try:
                await store.fetch_one("SELECT 1")
                seen.append("fine")
            except Unavailable as error:
                seen.append(error.code)
        return seen

    seen = on_a_node(work, chaos=Chaos(disk_gone_every_s=3.0, disk_gone_s=1.0))
    assert {"fine", "io_error"} == set(seen)
    assert seen[seen.index("io_error") :].count("fine") > 0


def test_units_are_now_and_then_run_twice() -> None:
    async def work(process: Process) -> int:
        runs = 0

        async def unit(tx: Tx) -> None:
            nonlocal runs
            runs += 1
            await insert(tx, runs)

        store = process.store()
        await store.migrate("t", [TABLE])
        for _ in range(300):
            await store.write(unit)
        (n,) = await store.fetch_one("SELECT count(*) FROM t") or (0,)
        assert n == 300
        return runs

    assert 300 < on_a_node(work) < 330


def test_a_prepared_content_is_copied_and_not_shared() -> None:
    runs: list[str] = []

    def steps(database: MemoryDatabase) -> None:
        runs.append(database.name)
        database.run_script("CREATE TABLE t (id INTEGER); INSERT INTO t VALUES (1)")

    first, second = World(1).database("a"), World(2).database("b")
    first.set_up(steps)
    first.memory.run_script("DELETE FROM t")
    second.set_up(steps)
    assert (first.rows("SELECT * FROM t"), second.rows("SELECT * FROM t")) == ([], [(1,)])
    assert len(runs) == 1


def test_a_database_dumped_and_restored_is_the_same_one() -> None:
    database = MemoryDatabase("x")
    empty = database.dump()
    database.run_script("CREATE TABLE t (id INTEGER); INSERT INTO t VALUES (1)")
    full = database.dump()
    database.restore(b"")
    assert database.fetch_all("SELECT name FROM sqlite_master") == []
    database.restore(full)
    assert database.fetch_one("SELECT id FROM t") == (1,)
    database.restore(empty)
    database.run_script("CREATE TABLE t (id INTEGER)")
    assert database.fetch_all("SELECT id FROM t") == []
