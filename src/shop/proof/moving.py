"""The claim about moving a bucket: a million rows change their database while they are written, and nobody waits long.

The mover is a process of its own, as it is in life: `python -m shop.proof.moving LAYOUT TARGET`.
"""

from __future__ import annotations

import asyncio
import math
import random
import shutil
import sys
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple, cast

import msgspec
import uvloop

from dougong.errors import Error
from dougong.evidence import Claim, Figures, MariaDB, Ratio, Server, Setting, Threshold
from dougong.shard import (
    BUCKETS,
    Mover,
    MoveReport,
    MoveSettings,
    ShardedStore,
    ShardedTable,
    load_layout,
    open_sharded_store,
)
from dougong.store import Migration, Tx

__all__ = ["MovingExperiment", "move", "move_mariadb"]

BUCKET = 17
PLAIN, BESIDE, SMALL = 16, 18, 22
"""A bucket of a database that no move ever touched; one that stays beside one that moves, for what triggers cost."""
SWITCHES = 5
"""Of each pair: there, and four times back or there again. An odd number, so that the next pair moves the other way."""
_SCHEMA = [
    Migration(
        1,
        "carts",
        "CREATE TABLE carts (id BIGINT NOT NULL PRIMARY KEY, owner VARCHAR(40) NOT NULL, writes BIGINT NOT NULL)",
    )
]


class Moved(msgspec.Struct):
    """What the mover's process tells."""

    rows: int
    copy_s: float
    pauses_s: list[float]
    switches: list[tuple[float, float]]
    """When each switch began at the earliest, and ended at the latest: monotonic, which all processes share."""


class Wait(NamedTuple):
    """Of one write: when it was due, and how long it took from then."""

    due: float
    seconds: float


class MovingExperiment:
    """Baseline: the same writes while nothing moves, and a table that never had triggers."""

    def __init__(self, store: ShardedStore, layout: Path, *, rows: int, rate: int, seconds: float) -> None:
        self._store = store
        self._layout = layout
        self._rows = rows
        self._rate = rate
        self._seconds = seconds
        self._draw = random.Random(7)
        self._written: dict[int, int] = {}
        self._problems: list[str] = []

    async def baseline(self, pair: int) -> Figures:
        done = asyncio.Event()
        asyncio.get_running_loop().call_later(self._seconds, done.set)
        waits = await self._write_until(done)
        return {"p99_ms": _p99_ms(wait.seconds for wait in waits), "write_us": await self._write_us(PLAIN)}

    async def ours(self, pair: int) -> Figures:
        await self._store.refresh()
        target = "db-3" if self._store.map.places[BUCKET].shard == "db-1" else "db-1"
        done = asyncio.Event()
        writing = asyncio.create_task(self._write_until(done))
        try:
            moved = await _mover(self._layout, target)
        finally:
            done.set()
            waits = await writing
        return {
            "p99_ms": _p99_ms(wait.seconds for wait in waits),
            "waited_ms": _p99_ms(_longest(waits, began, ended) for began, ended in moved.switches),
            "pause_ms": _p99_ms(moved.pauses_s),
            "rows": moved.rows,
            "rows_per_s": moved.rows / moved.copy_s,
            **await self._triggers_cost(),
        }

    async def _triggers_cost(self) -> Figures:
        """A row in the database of a bucket that moves, in that bucket and in another; and when the move is over."""
        mover = Mover(self._store, settings=MoveSettings(share=1.0))
        await self._store.refresh()
        await mover.move(SMALL, "db-1" if self._store.map.places[SMALL].shard == "db-2" else "db-2")
        moving, beside = await self._write_us(SMALL), await self._write_us(BESIDE)
        await mover.complete(SMALL)
        return {"moving_us": moving, "beside_us": beside, "write_us": await self._write_us(BESIDE)}

    async def verify(self) -> Sequence[str]:
        """Every row shows as many writes as were acknowledged, and there is no row too many or too few."""
        sql = f"SELECT id, writes FROM carts WHERE id % {BUCKETS} = {BUCKET}"  # noqa: S608 (constants)
        rows = cast("list[tuple[int, int]]", await self._store.store_at(BUCKET).fetch_all(sql))
        if len(rows) != self._rows:
            self._problems.append(f"there are {len(rows)} rows, not {self._rows}")
        wrong = [(id_, writes) for id_, writes in rows if writes != self._written.get(id_, 0)]
        for id_, writes in wrong[:5]:
            self._problems.append(f"row {id_} shows {writes} writes of {self._written.get(id_, 0)} acknowledged ones")
        return self._problems

    async def _write_until(self, done: asyncio.Event) -> list[Wait]:
        """At a fixed rate, whatever becomes of the writes: from when each was due to its acknowledgement."""
        waits: list[Wait] = []

        async def one(due: float) -> None:
            id_ = BUCKET + BUCKETS * self._draw.randrange(self._rows)

            async def unit(tx: Tx) -> None:
                await tx.execute("UPDATE carts SET writes = writes + 1 WHERE id = ?", (id_,))

            try:
                await self._store.store_of(id_).write(unit)
            except Error as error:
                self._problems.append(f"a write failed: {error}")
            else:
                self._written[id_] = self._written.get(id_, 0) + 1
                waits.append(Wait(due, time.monotonic() - due))

        begun, count = time.monotonic(), 0
        async with asyncio.TaskGroup() as writes:
            while not done.is_set():
                due = begun + count / self._rate
                if due > time.monotonic():
                    await asyncio.sleep(due - time.monotonic())
                writes.create_task(one(due))
                count += 1
        return waits

    async def _write_us(self, bucket: int) -> float:
        """A row in a unit of 500, of several units the fastest: what else the machine does only adds to it."""
        times: list[float] = []
        for _ in range(15):
            ids = [(bucket + BUCKETS * self._draw.randrange(5000),) for _ in range(500)]

            async def unit(tx: Tx, ids: Sequence[tuple[int]] = ids) -> None:
                for id_ in ids:
                    await tx.execute("UPDATE carts SET writes = writes + 1 WHERE id = ?", id_)

            began = time.perf_counter()
            await self._store.store_at(bucket).write(unit)
            times.append((time.perf_counter() - began) / len(ids))
        return min(times) * 1e6


def _p99_ms(seconds: Iterable[float]) -> float:
    ordered = sorted(seconds)
    return ordered[max(0, math.ceil(len(ordered) * 0.99) - 1)] * 1e3 if ordered else math.nan


def _longest(waits: Sequence[Wait], began: float, ended: float) -> float:
    """Of the writes that were due before a switch ended, and not done when it began."""
    return max((wait.seconds for wait in waits if wait.due <= ended and wait.due + wait.seconds >= began), default=0.0)


async def _mover(layout: Path, target: str) -> Moved:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "shop.proof.moving", str(layout), target, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"the mover ended with {process.returncode}")
    return msgspec.json.decode(out, type=Moved)


async def _move(layout: Path, target: str) -> Moved:
    """Move with everything that belongs to it; then back and forth, and give up the other copy."""
    store = await open_sharded_store(load_layout(layout), create=False)
    try:
        report = await Mover(store).move(BUCKET, target)
        moved = Moved(report.rows, report.seconds, [report.pause_s], [_window(report)])
        again = Mover(store, settings=MoveSettings(verify=False))
        for _ in range(SWITCHES - 1):
            report = await again.reverse(BUCKET)
            moved.pauses_s.append(report.pause_s)
            moved.switches.append(_window(report))
        await again.complete(BUCKET)
        return moved
    finally:
        await store.close()


def _window(report: MoveReport) -> tuple[float, float]:
    """The switch of a move that has just returned; what it did after that takes a few milliseconds."""
    now = time.monotonic()
    return now - report.pause_s - 0.05, now


async def _filled(layout: Path, rows: int) -> ShardedStore:
    store = await open_sharded_store(load_layout(layout))
    await store.migrate("carts", _SCHEMA)
    await store.declare(ShardedTable("carts"))
    for bucket, count in ((BUCKET, rows), (PLAIN, 5000), (BESIDE, 5000), (SMALL, 5000)):
        for start in range(0, count, 5000):
            some = [
                (bucket + BUCKETS * number, f"cart {number}", 0) for number in range(start, min(count, start + 5000))
            ]

            async def unit(tx: Tx, some: list[tuple[int, str, int]] = some) -> None:
                await tx.execute_many("INSERT INTO carts VALUES (?, ?, ?)", some)

            await store.store_at(bucket).write(unit)
    return store


@asynccontextmanager
async def _experiment(setting: Setting, urls: dict[str, str]) -> AsyncGenerator[MovingExperiment]:
    layout = setting.workdir / "layout.toml"
    listed = "".join(f'{name} = "{url}"\n' for name, url in urls.items() if name != "map")
    layout.write_text(f'name = "carts"\nmetadata = "{urls["map"]}"\n[databases]\n{listed}')
    rows = 20_000 if setting.quick else 1_000_000
    setting.say(f"writing {rows:,} rows")
    store = await _filled(layout, rows)
    try:
        yield MovingExperiment(
            store, layout, rows=rows, rate=300 if setting.quick else 1000, seconds=1.0 if setting.quick else 5.0
        )
    finally:
        await store.close()
        layout.unlink()


_NAMES = ("map", "db-0", "db-1", "db-2", "db-3")


@asynccontextmanager
async def _embedded(setting: Setting) -> AsyncGenerator[MovingExperiment]:
    folder = setting.workdir.absolute()
    async with _experiment(setting, {name: f"sqlite:///{folder}/{name}.db" for name in _NAMES}) as experiment:
        yield experiment
    for file in folder.glob("*.db*"):
        file.unlink()


@asynccontextmanager
async def _on_mariadb(setting: Setting) -> AsyncGenerator[MovingExperiment]:
    folder = setting.workdir / "mariadb"
    folder.mkdir()
    setting.say("starting MariaDB")
    server: Server | None = None
    try:
        server = await asyncio.to_thread(MariaDB, folder.absolute(), buffer_mb=512)
        async with AsyncExitStack() as stack:
            urls = {name: stack.enter_context(server.database()) for name in _NAMES}
            async with _experiment(setting, urls) as experiment:
                yield experiment
    finally:
        if server is not None:
            server.remove()
        shutil.rmtree(folder, ignore_errors=True)


_RESULT = (
    "{ours[rows]:,.0f} rows at {ours[rows_per_s]:,.0f}/s under 1,000 writes a second, of which those at a switch waited"
    " {ours[waited_ms]:.0f} ms at most (P99 of the switches); P99 of all writes {ours[p99_ms]:.0f} ms,"
    " {ratio[p99_ms]:.1f} × as when nothing moves; when it is over a write costs {ratio[write_us]:.2f} × as before"
)
_TABLE = (
    "| | nothing moves | a bucket moves |\n| --- | --- | --- |\n"
    "| P99 of writes, ms | {baseline[p99_ms]:.1f} | {ours[p99_ms]:.1f} |\n"
    "| longest write at a switch, P99 of the switches, ms | | {ours[waited_ms]:.0f} |\n"
    "| without an owner, P99 of the switches, ms | | {ours[pause_ms]:.0f} |\n\n"
    "A row written in a database that no move ever touched: {baseline[write_us]:.2f} µs; where another bucket moves:"
    " {ours[beside_us]:.2f} µs; in the bucket that moves: {ours[moving_us]:.2f} µs; when the move is over:"
    " {ours[write_us]:.2f} µs."
)
_SWITCHES = (Threshold("ours.pause_ms", at_most=100), Threshold("ours.waited_ms", at_most=100))
# What a write costs afterwards is judged on SQLite only: a server may have work left then, which shows in it.
_SITUATION = (
    "A database is full. Copying a part of it elsewhere means to stop its writers for minutes, or to write everything"
    " twice and hope."
)
_ACTION = (
    "Changed keys are noted by triggers, rows are copied piece by piece and compared, and writers are held only while"
    " the last notes are worked off and the map is switched."
)

move = Claim(
    name="move",
    title="A million rows move to another database, and writers wait for milliseconds",
    situation=_SITUATION,
    task="Move a bucket of 1,000,000 rows under 1,000 writes a second: none fails or is lost, none waits longer than"
    " 100 ms for a switch, and none costs more when it is over.",
    action=_ACTION,
    result=_RESULT,
    table=_TABLE,
    experiment=_embedded,
    ratios={"p99_ms": Ratio("p99_ms", "p99_ms"), "write_us": Ratio("write_us", "write_us")},
    thresholds=(*_SWITCHES, Threshold("ratio.write_us", at_most=1.25)),
)

move_mariadb = Claim(
    name="move-mariadb",
    title="The same move between databases of MariaDB",
    situation=_SITUATION,
    task="Move a bucket of 1,000,000 rows under 1,000 writes a second, each synced by MariaDB, none of which waits"
    " longer than 100 ms for a switch.",
    action=_ACTION,
    result=_RESULT,
    table=_TABLE,
    experiment=_on_mariadb,
    ratios={"p99_ms": Ratio("p99_ms", "p99_ms"), "write_us": Ratio("write_us", "write_us")},
    thresholds=_SWITCHES,
)

if __name__ == "__main__":
    moved_ = uvloop.run(_move(Path(sys.argv[1]), sys.argv[2]))
    sys.stdout.write(msgspec.json.encode(moved_).decode())
