"""A tiny service with a lost update in it, and the story that finds it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from dougong.contract import Message, Service, rpc
from dougong.errors import Error
from dougong.rpc import Server, client
from dougong.simulation import Chaos, Outcome, Process, Story, World
from dougong.store import Migration, Store, Tx

TABLE = Migration(1, "counter", "CREATE TABLE counter (n INTEGER NOT NULL); INSERT INTO counter VALUES (0)")


class Add(Message):
    n: int


class Sum(Message):
    n: int


class Counter(Service, package="test.simulation.v1"):
    """Counts."""

    def __init__(self, store: Store, *, careful: bool) -> None:
        self._store = store
        self._careful = careful

    @rpc(public=True)
    async def add(self, request: Add) -> Sum:
        """The new sum."""
        if self._careful:

            async def together(tx: Tx) -> int:
                await tx.execute("UPDATE counter SET n = n + ?", (request.n,))
                row = await tx.fetch_one("SELECT n FROM counter")
                assert row is not None
                return int(row[0] or 0)

            return Sum(n=await self._store.write(together))
        row = await self._store.fetch_one("SELECT n FROM counter")
        assert row is not None
        n = int(row[0] or 0) + request.n
        await self._store.write(lambda tx: tx.execute("UPDATE counter SET n = ?", (n,)))
        return Sum(n=n)


async def tell_counter(world: World, without: str) -> Sequence[str]:
    async def serve(process: Process) -> None:
        store = process.store()
        await store.migrate("counter", [TABLE])
        service = Counter(store, careful=without != "care")
        await Server([service], transport=process.transport).start("counter:1")

    async def use(process: Process) -> None:
        counter = client(Counter, "counter:1", transport=process.transport, random=process.random)
        for _ in range(5):
            call = world.history.invoke(process.name, "add", value=1)
            try:
                answer = await counter.add(Add(n=1))
            except Error as error:
                world.history.unknown(call, error.code)
            else:
                world.history.ok(call, answer.n)
            await asyncio.sleep(process.random.random())

    world.node("counter").start(serve)
    for number in (1, 2):
        world.node(f"client-{number}", crashes=False).start(use)
    await asyncio.sleep(15.0)
    world.heal()
    await asyncio.sleep(15.0)
    ((n,),) = world.database("counter").rows_as(tuple[int], "SELECT n FROM counter")
    acknowledged = sum(call.outcome is Outcome.OK for call in world.history.calls)
    tried = len(world.history.calls)
    return [] if acknowledged <= n <= tried else [f"{acknowledged} of {tried} were acknowledged, {n} counted"]


counter = Story(
    name="counter",
    title="a counter that is added to",
    tell=tell_counter,
    chaos=Chaos(crash_every_s=4.0, partition_every_s=8.0, request_lost=0.05, answer_lost=0.1, disk_full=0.05),
    safeguards={"care": "read and write in one unit"},
)


async def tell_pair(world: World, without: str) -> Sequence[str]:
    """Wrong only when both nodes were killed: what a story looks like that needs two faults of many."""

    async def idle(process: Process) -> None:
        process.note("idle")

    for name in ("a", "b", "c"):
        world.node(name).start(idle)
    await asyncio.sleep(30.0)
    world.heal()
    killed = {fault.where for fault in world.faults.happened if "killed" in fault.what}
    return ["both were killed"] if {"a", "b"} <= killed else []


pair = Story(name="pair", title="two crashes", tell=tell_pair, chaos=Chaos(crash_every_s=3.0), vary=False)
