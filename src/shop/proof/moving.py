"""The claim about moving a bucket: a million rows change their database while they are written, and nobody waits long.

The mover is a process of its own, as it is in life: `python -m shop.proof.moving LAYOUT TARGET`.
"""

from __future__ import annotations

import asyncio
import math
import random
import shutil
import statistics
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import cast

import msgspec
import uvloop

from dougong.errors import Error
from dougong.evidence import Claim, Figures, MariaDB, NotShown, Ratio, Server, Setting, Threshold
from dougong.shard import BUCKETS, Mover, MoveSettings, ShardedStore, ShardedTable, load_layout, open_sharded_store
from dougong.store import Migration, Tx

__all__ = ["MovingExperiment", "move", "move_mariadb"]

BUCKET = 17
PLAIN, NOTED = 16, 18
"""Buckets of databases without and with triggers, of which none moves."""
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


class MovingExperiment:
    """Baseline: the same writes while nothing moves, and a table without triggers."""

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
        times = await self._write_until(done)
        return {"p99_ms": _percentile(times, 0.99) * 1e3, "write_us": await self._write_us(PLAIN)}

    async def ours(self, pair: int) -> Figures:
        await self._store.refresh()
        target = "db-3" if self._store.map.places[BUCKET].shard == "db-1" else "db-1"
        done = asyncio.Event()
        writing = asyncio.create_task(self._write_until(done))
        try:
            moved = await _mover(self._layout, target)
        finally:
            done.set()
            times = await writing
        return {
            "p99_ms": _percentile(times, 0.99) * 1e3,
            "longest_ms": max(times) * 1e3,
            "pause_ms": _percentile(moved.pauses_s, 0.99) * 1e3,
            "rows": moved.rows,
            "rows_per_s": moved.rows / moved.copy_s,
            "write_us": await self._write_us(NOTED),
        }

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

    async def _write_until(self, done: asyncio.Event) -> list[float]:
        """At a fixed rate, whatever becomes of the writes; seconds from when each was due to its acknowledgement."""
        loop, times = asyncio.get_running_loop(), list[float]()

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
                times.append(loop.time() - due)

        begun, count = loop.time(), 0
        async with asyncio.TaskGroup() as writes:
            while not done.is_set():
                due = begun + count / self._rate
                if due > loop.time():
                    await asyncio.sleep(due - loop.time())
                writes.create_task(one(due))
                count += 1
        return times

    async def _write_us(self, bucket: int) -> float:
        """A row in a unit of 500, of several units the median."""
        times: list[float] = []
        for _ in range(15):
            ids = [(bucket + BUCKETS * self._draw.randrange(5000),) for _ in range(500)]

            async def unit(tx: Tx, ids: Sequence[tuple[int]] = ids) -> None:
                for id_ in ids:
                    await tx.execute("UPDATE carts SET writes = writes + 1 WHERE id = ?", id_)

            began = time.perf_counter()
            await self._store.store_at(bucket).write(unit)
            times.append((time.perf_counter() - began) / len(ids))
        return statistics.median(times) * 1e6


def _percentile(times: Sequence[float], share: float) -> float:
    ordered = sorted(times)
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)] if ordered else math.nan


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
        again = Mover(store, settings=MoveSettings(verify=False))
        backs = [await again.reverse(BUCKET) for _ in range(SWITCHES - 1)]
        await again.complete(BUCKET)
        return Moved(report.rows, report.seconds, [switch.pause_s for switch in (report, *backs)])
    finally:
        await store.close()


async def _filled(layout: Path, rows: int) -> ShardedStore:
    store = await open_sharded_store(load_layout(layout))
    await store.migrate("carts", _SCHEMA)
    await store.declare(ShardedTable("carts"))
    for bucket, count in ((BUCKET, rows), (PLAIN, 5000), (NOTED, 5000)):
        for start in range(0, count, 5000):
            some = [
                (bucket + BUCKETS * number, f"cart {number}", 0) for number in range(start, min(count, start + 5000))
            ]

            async def unit(tx: Tx, some: list[tuple[int, str, int]] = some) -> None:
                await tx.execute_many("INSERT INTO carts VALUES (?, ?, ?)", some)

            await store.store_at(bucket).write(unit)
    await Mover(store).move(22, "db-1", complete=True)  # db-2, where NOTED is, takes notes from now on
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
    except FileNotFoundError as error:  # pragma: no cover (where there is no MariaDB)
        raise NotShown(str(error)) from None
    finally:
        if server is not None:
            server.remove()
        shutil.rmtree(folder, ignore_errors=True)


_RESULT = (
    "{ours[rows]:,.0f} rows at {ours[rows_per_s]:,.0f}/s under 1,000 writes a second, of which the switch held up some"
    " for {ours[pause_ms]:.0f} ms; P99 of all writes {ours[p99_ms]:.0f} ms, {ratio[p99_ms]:.1f} × as when nothing moves"
)
_TABLE = (
    "| | nothing moves | a bucket moves |\n| --- | --- | --- |\n"
    "| P99 of writes, ms | {baseline[p99_ms]:.1f} | {ours[p99_ms]:.1f} |\n"
    "| longest write, ms | | {ours[longest_ms]:.0f} |\n"
    "| without writes, P99 of the switches, ms | | {ours[pause_ms]:.0f} |\n\n"
    "A row written in a database that took notes once, and moves nothing: {ours[write_us]:.2f} µs; in one that never"
    " did: {baseline[write_us]:.2f} µs."
)
_THRESHOLDS = (Threshold("ours.pause_ms", at_most=100),)
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
    task="Move a bucket of 1,000,000 rows under 1,000 writes a second: none fails, is lost, or waits for 100 ms.",
    action=_ACTION,
    result=_RESULT,
    table=_TABLE,
    experiment=_embedded,
    ratios={"p99_ms": Ratio("p99_ms", "p99_ms"), "write_us": Ratio("write_us", "write_us")},
    thresholds=_THRESHOLDS,
)

move_mariadb = Claim(
    name="move-mariadb",
    title="The same move between databases of MariaDB",
    situation=_SITUATION,
    task="Move a bucket of 1,000,000 rows under 1,000 writes a second, each synced by MariaDB.",
    action=_ACTION,
    result=_RESULT,
    table=_TABLE,
    experiment=_on_mariadb,
    ratios={"p99_ms": Ratio("p99_ms", "p99_ms"), "write_us": Ratio("write_us", "write_us")},
    thresholds=_THRESHOLDS,
)

if __name__ == "__main__":
    moved_ = uvloop.run(_move(Path(sys.argv[1]), sys.argv[2]))
    sys.stdout.write(msgspec.json.encode(moved_).decode())
