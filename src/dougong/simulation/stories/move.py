"""Buckets are moved to and fro while they are written: movers, routers and people's wishes cross each other, processes
die, disks fill up and are gone. In the end every database is looked into.

Two routers write into one bucket: counters that tell how often they were raised, lines that say so one by one, and rows
that come and go. What was acknowledged must be there, once, in the one database that owns the bucket. In some worlds a
neighbour moves at the same time between the same databases, so that their triggers are wanted by one and not by the
other; when all is over, nobody takes notes any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import TypeVar, cast

import msgspec

from dougong.breaker import BreakerPolicy
from dougong.errors import Error
from dougong.shard import BucketMap, ModuloRouting, Mover, MoveSettings, ShardedStore, ShardedTable, verify
from dougong.shard.databases import Databases
from dougong.shard.maps import UNFINISHED, BucketMaps
from dougong.shard.moving.record import MoveRecord, Phase, Wish
from dougong.shard.moving.side import Side
from dougong.simulation.faults import Chaos
from dougong.simulation.history import Outcome
from dougong.simulation.node import Node, Process
from dougong.simulation.stories.move_without import SAFEGUARDS, mover_without
from dougong.simulation.story import Story
from dougong.simulation.world import World
from dougong.store import Migration, Row, Store, Tx

__all__ = ["story"]

R = TypeVar("R")

BUCKET, NEIGHBOUR = 17, 18
SHARDS = ("db-0", "db-1", "db-2")
KEYS = tuple(BUCKET + 128 * n for n in range(12))
CALM_S, QUIET_S = 16.0, 120.0
SETTINGS = MoveSettings(fence_s=1.0, lag_max=4, patience_s=20.0, share=0.9)
TABLES = (ShardedTable("counters"), ShardedTable("lines", key="counter"), ShardedTable("guests"))
SCHEMA = [
    Migration(
        1,
        "counters",
        "CREATE TABLE counters (id INTEGER PRIMARY KEY, raised INTEGER NOT NULL);"
        "CREATE TABLE lines (counter INTEGER NOT NULL, number INTEGER NOT NULL, who TEXT NOT NULL,"
        " PRIMARY KEY (counter, number));"
        "CREATE TABLE guests (id INTEGER PRIMARY KEY, who TEXT NOT NULL)",
    )
]


async def open_router(process: Process) -> ShardedStore:
    """What `open_sharded_store` does, over a simulated world's databases."""
    metadata = process.store("map")
    maps = BucketMaps(metadata)
    first = await maps.open("modulo", ["db-0"] * 128)

    async def opener(name: str) -> object:
        return process.store(name)

    databases = Databases(
        dict.fromkeys(SHARDS, "sqlite:"),
        of="users",
        clock=process.clock,
        breaker=BreakerPolicy(),
        opener=opener,  # type: ignore[arg-type]
    )
    router = ShardedStore(
        "users", metadata, maps, first, ModuloRouting(), databases, clock=process.clock, stale_wait_s=5.0,
        waiting_max=100,
    )  # fmt: skip
    if first.version == UNFINISHED:
        await router.hand_over_buckets()
    await router.migrate("story", SCHEMA)
    await router.declare(*TABLES)
    return router


class Writer:
    """A router and what is asked of it."""

    def __init__(self, world: World, process: Process, router: ShardedStore) -> None:
        self._history = world.history
        self._process = process
        self._router = router
        self._guest = 0

    async def work(self) -> None:
        draw = self._process.random
        while True:
            await asyncio.sleep(draw.random() * 0.15)
            key = draw.choice(KEYS)
            what = draw.choice(("raise", "raise", "raise", "read", "come", "go"))
            await getattr(self, f"_{what}")(key)

    async def _raise(self, key: int) -> None:
        async def unit(tx: Tx) -> int:
            row = await tx.fetch_one("SELECT raised FROM counters WHERE id = ?", (key,))
            number = cast(int, row[0]) + 1 if row is not None else 1
            if row is None:
                await tx.execute("INSERT INTO counters VALUES (?, 1)", (key,))
            else:
                await tx.execute("UPDATE counters SET raised = ? WHERE id = ?", (number, key))
            await tx.execute("INSERT INTO lines VALUES (?, ?, ?)", (key, number, self._process.name))
            return number

        call = self._history.invoke(self._process.name, "raise", key)
        try:
            self._history.ok(call, await self._router.store_of(key).write(unit))
        except Error as error:
            self._history.unknown(call, error.code)

    async def _read(self, key: int) -> None:
        call = self._history.invoke(self._process.name, "read", key)
        try:
            row = await self._router.store_of(key).fetch_one("SELECT raised FROM counters WHERE id = ?", (key,))
            self._history.ok(call, cast(int, row[0]) if row is not None else 0)
        except Error as error:
            self._history.fail(call, error.code)

    async def _come(self, key: int) -> None:
        self._guest += 1
        number = self._process.number * 1000 + self._guest
        guest = (number * 8 + int(self._process.name[-1])) * 128 + BUCKET
        await self._visit("come", guest, "INSERT INTO guests VALUES (?, 'guest') ON CONFLICT DO NOTHING")

    async def _go(self, key: int) -> None:
        calls = [call for call in self._history.calls if call.what == "come" and call.client == self._process.name]
        gone = {call.key for call in self._history.calls if call.what == "go"}
        there = [call.key for call in calls if call.key not in gone]
        if there:
            await self._visit("go", cast(int, self._process.random.choice(there)), "DELETE FROM guests WHERE id = ?")

    async def _visit(self, what: str, guest: int, sql: str) -> None:
        call = self._history.invoke(self._process.name, what, guest)
        try:
            await self._router.store_of(guest).write(lambda tx: tx.execute(sql, (guest,)))
            self._history.ok(call)
        except Error as error:
            self._history.unknown(call, error.code)


async def move_about(process: Process, router: ShardedStore, world: World, without: str, bucket: int = BUCKET) -> None:
    """Whatever is under way goes on, and then the bucket goes somewhere else."""
    draw = process.random
    mover = mover_without(without)(router, name=process.name, settings=SETTINGS)
    stand_still(mover, draw)
    while True:
        await asyncio.sleep(draw.random())
        try:
            record = await router.moves.get(bucket)
            if record is None or record.phase is Phase.DONE:
                await router.refresh()
                await mover.move(bucket, draw.choice([name for name in SHARDS if name != _owner(router.map, bucket)]))
            elif record.phase is Phase.REVERSIBLE:
                await draw.choice((mover.complete, mover.complete, mover.reverse))(bucket)
            else:
                await mover.resume(bucket)
        except Error as error:
            process.note(f"moving: {error}")
            if error.code == "copy_differs":
                world.failures.append(str(error))


def stand_still(mover: Mover, draw: Random) -> None:
    """Now and then for a while (a machine is suspended, say), between deciding on a step and taking it."""
    remove = mover._remove
    side: type[Side] = mover.side

    class Slow(side):  # type: ignore[valid-type, misc]
        async def call(self, work: Callable[[Store], Awaitable[R]]) -> R:
            if draw.random() < 0.02:
                await asyncio.sleep(draw.random() * 2)
            return await side.call(self, work)

    async def late(shard: str, tables: Sequence[str], number: int) -> None:
        if draw.random() < 0.3:
            await asyncio.sleep(draw.random() * 3)
        await remove(shard, tables, number)

    mover._remove = late  # type: ignore[method-assign]
    mover.side = Slow


async def wish(process: Process, router: ShardedStore) -> None:
    """People change their minds."""
    draw = process.random
    while True:
        await asyncio.sleep(draw.random() * 6)
        try:
            await router.moves.wish(BUCKET, draw.choice((Wish.PAUSE, Wish.GO, Wish.CANCEL, Wish.REVERSE)))
        except Error as error:
            process.note(f"wishing: {error}")


def _owner(bucket_map: BucketMap, bucket: int) -> str:
    return bucket_map.places[bucket].shard


async def settle(mover: Mover, bucket: int) -> MoveRecord | None:
    """Bring whatever is under way to its end."""
    for _ in range(8):
        record = await mover.moves.get(bucket)
        if record is None or record.phase is Phase.DONE:
            return record
        await (mover.complete if record.phase is Phase.REVERSIBLE else mover.resume)(bucket)
    return await mover.moves.get(bucket)


async def tell(world: World, without: str) -> Sequence[str]:
    """Everything at once; then one more mover brings it to an end."""

    async def route(process: Process) -> None:
        await Writer(world, process, await open_router(process)).work()

    async def move(process: Process) -> None:
        await move_about(process, await open_router(process), world, without)

    async def move_neighbour(process: Process) -> None:
        await move_about(process, await open_router(process), world, without, NEIGHBOUR)

    async def wishes(process: Process) -> None:
        await wish(process, await open_router(process))

    found: list[str] = []
    world.node("router-1").start(route)
    world.node("router-2").start(route)
    world.node("mover-1").start(move)
    if world.random.random() < 0.3:
        world.node("mover-2").start(move)
    if world.random.random() < 0.5:
        world.node("neighbour").start(move_neighbour)
    world.node("people").start(wishes)
    watching = world.spawn(watch_owners(world, found))
    striking = world.spawn(strike_when_closed(world))
    await asyncio.sleep(CALM_S)
    striking.cancel()
    world.heal()
    movers = {"mover-1", "mover-2", "neighbour", "people"}
    for node in [node for node in world.nodes if node.name in movers]:
        node.stop()
    settled: list[MoveRecord] = []

    async def bring_to_an_end(process: Process) -> None:
        router = await open_router(process)
        mover = mover_without(without)(router, name="last", settings=SETTINGS)
        await settle(mover, NEIGHBOUR)
        if await router.moves.get(BUCKET) is None:
            await mover.move(BUCKET, "db-1")
        await settle(mover, BUCKET)
        await mover.tidy()
        await asyncio.sleep(1.0)
        record = await router.moves.get(BUCKET)
        assert record is not None
        settled.append(record)
        found.extend(await verify(router))

    world.node("last", crashes=False).start(bring_to_an_end)
    for _ in range(int(QUIET_S)):
        await asyncio.sleep(1.0)
        if settled:
            break
    if not settled or settled[0].phase is not Phase.DONE:
        found.append(f"after {QUIET_S:.0f} s without faults the move is not over: {settled}")
    world.node("router-1").stop()
    world.node("router-2").stop()
    watching.cancel()
    found += judge(world, settled[0] if settled else None)
    return found or _taking_notes(world)


async def watch_owners(world: World, found: list[str]) -> None:
    """No two databases ever take writes for the bucket."""
    while not found:
        await asyncio.sleep(0.05)
        owners = [name for name in SHARDS if _state(world, name) in ("serving", "moving")]
        if len(owners) > 1:
            found.append(f"at {world.now_s:.3f} s bucket {BUCKET} is owned by {' and '.join(owners)}")


async def strike_when_closed(world: World) -> None:
    """Kill a mover while its bucket is fenced, for long enough that those who wait for it have to help themselves."""
    source, node = world.faults.source("closed mover-1", "mover-1"), world.node("mover-1")
    draw = source.random
    while True:
        await asyncio.sleep(0.02)
        if not any(_state(world, name) == "fenced" for name in SHARDS) or draw.random() > 0.4:
            continue
        fuse = draw.randint(1, 8)
        if node.process is not None and source.allow(f"killed within {fuse} callbacks, at the fence"):
            node.crash(after_callbacks=fuse)
            await asyncio.sleep(4.0)
            _start_again(node)


def _start_again(node: Node) -> None:
    if node.started and not node.up:
        node.restart()


def _state(world: World, name: str) -> str:
    try:
        row = world.database(name).memory.fetch_one(
            "SELECT state FROM dougong_bucket_owner WHERE bucket = ?", (BUCKET,)
        )
    except Error:  # no tables yet
        return ""
    return cast(str, row[0]) if row is not None else ""


def _taking_notes(world: World) -> list[str]:
    sql = "SELECT DISTINCT tbl_name FROM sqlite_master WHERE type = 'trigger'"
    return [f"{name} still takes notes of {table!s}" for name in SHARDS for (table,) in world.database(name).rows(sql)]


def judge(world: World, last: MoveRecord | None) -> list[str]:
    found: list[str] = []
    owner = next((name for name in SHARDS if _state(world, name) in ("serving", "moving")), None)
    if owner is None:
        return ["nobody owns the bucket"]

    def ask(name: str, sql: str) -> list[Row]:
        return world.database(name).memory.fetch_all(sql)

    counters = dict(cast("list[tuple[int, int]]", ask(owner, "SELECT id, raised FROM counters")))
    lines: dict[int, list[int]] = {}
    for key, number in cast("list[tuple[int, int]]", ask(owner, "SELECT counter, number FROM lines ORDER BY 1, 2")):
        lines.setdefault(key, []).append(number)
    calls = world.history.calls
    for key in KEYS:
        raises = [call for call in calls if call.what == "raise" and call.key == key]
        told = [cast(int, call.result) for call in raises if call.outcome is Outcome.OK]
        unknown = sum(call.outcome is Outcome.UNKNOWN for call in raises)
        raised = counters.get(key, 0)
        if not len(told) <= raised <= len(told) + unknown:
            found.append(f"counter {key} was raised {len(told)} to {len(told) + unknown} times and shows {raised}")
        if len(set(told)) < len(told):
            found.append(f"counter {key}: a number was given twice: {sorted(told)}")
        if lines.get(key, []) != list(range(1, raised + 1)):
            found.append(f"counter {key} shows {raised}, its lines are {lines.get(key)}")
        found += _stale_reads(key, [call for call in calls if call.key == key])
    guests = {row[0] for row in ask(owner, "SELECT id FROM guests")}
    for call in calls:
        if call.what == "come" and call.outcome is Outcome.OK:
            goes = [other for other in calls if other.what == "go" and other.key == call.key]
            if not goes and call.key not in guests:
                found.append(f"guest {call.key} came and is not there")
            if goes and call.key in guests and goes[0].outcome is Outcome.OK:
                found.append(f"guest {call.key} went and is there")
    if last is not None and last.phase is Phase.DONE and not found:
        for name in (last.source, last.target):
            for table in ("counters", "lines", "guests"):
                if name != owner and (rows := ask(name, f"SELECT count(*) FROM {table}")) != [(0,)]:  # noqa: S608
                    found.append(f"{name} still has rows of {table} after the move was completed: {rows}")
    return found


def _stale_reads(key: int, calls: Sequence[object]) -> list[str]:
    """A read shows at least what was acknowledged before it began."""
    history = cast("list[msgspec.Struct]", calls)
    found = []
    for read in history:
        if read.what != "read" or read.outcome is not Outcome.OK:  # type: ignore[attr-defined]
            continue
        before = [
            call.result  # type: ignore[attr-defined]
            for call in history
            if call.outcome is Outcome.OK and call.ended_s is not None and call.ended_s < read.began_s  # type: ignore[attr-defined]
        ]
        least = max((cast(int, value) for value in before), default=0)
        if cast(int, read.result) < least:  # type: ignore[attr-defined]
            found.append(f"counter {key}: a read showed {read.result} after {least} had been seen")  # type: ignore[attr-defined]
    return found


story = Story(
    name="move",
    title="A bucket is moved to and fro while two routers write into it: crashes, lost disks, second thoughts.",
    tell=tell,
    chaos=Chaos(
        crash_every_s=12.0,
        down_s=1.5,
        write_s=0.02,
        write_slow=0.02,
        disk_full=0.01,
        disk_locked=0.02,
        disk_gone_every_s=30.0,
        disk_gone_s=2.0,
        clock_skew_s=1.0,
    ),
    safeguards=SAFEGUARDS,
)
