"""People want the same few addresses, in many databases, and no two may have one: registered, changed, deleted, swept.

Each node writes for people of its own, two calls at a time; which addresses they want is drawn from the same few, so
that claims are taken over, revoked and swept while rows are written under them. Processes die at any await, disks are
full, slow and gone, clocks differ. In the end every database is looked into.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

from dougong.breaker import BreakerPolicy
from dougong.errors import Conflict, Error
from dougong.shard import ModuloRouting, ShardedStore, ShardedTable, UniqueIndex
from dougong.shard.databases import Databases
from dougong.shard.maps import UNFINISHED, BucketMaps
from dougong.simulation.faults import Chaos
from dougong.simulation.history import Call, Outcome
from dougong.simulation.node import Process
from dougong.simulation.stories.unique_without import SAFEGUARDS, index_without
from dougong.simulation.story import Story
from dougong.simulation.world import World
from dougong.store import Migration, Tx

__all__ = ["story"]

SHARDS = ("db-0", "db-1", "db-2")
NODES = 3
PEOPLE = 2
"""Of each node."""
ADDRESSES = ("ada", "bob", "eve")
BUSY_S, QUIET_S = 5.0, 60.0
USERS = ShardedTable("users")
SCHEMA = [Migration(1, "users", "CREATE TABLE users (id BIGINT NOT NULL PRIMARY KEY, email VARCHAR(100))")]
_SET = "INSERT INTO users VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET email = excluded.email"


async def open_index(process: Process, without: str) -> tuple[ShardedStore, UniqueIndex]:
    """What `open_sharded_store` does, over a simulated world's databases, and an index on it."""
    metadata = process.store("map")
    maps = BucketMaps(metadata)
    routing = ModuloRouting()
    first = await maps.open(routing.name, routing.spread(SHARDS))

    async def opener(name: str) -> object:
        return process.store(name)

    databases = Databases(
        dict.fromkeys(SHARDS, "sqlite:"),
        of="users",
        clock=process.clock,
        breaker=BreakerPolicy(),
        opener=opener,  # type: ignore[arg-type]
    )
    sharded = ShardedStore(
        "users", metadata, maps, first, routing, databases, clock=process.clock, stale_wait_s=5.0, waiting_max=100
    )
    if first.version == UNFINISHED:
        await sharded.hand_over_buckets()
    await sharded.migrate("story", SCHEMA)
    index = index_without(without)(sharded, "email", USERS, "email")
    await index.start(new=True)
    return sharded, index


class Client:
    """One process that writes for its people. The value of a call is (address, life of the process)."""

    def __init__(self, world: World, process: Process, sharded: ShardedStore, index: UniqueIndex) -> None:
        self._history = world.history
        self._process = process
        self._sharded = sharded
        self._index = index
        number = int(process.name[-1])
        self._keys = [NODES * each + number for each in range(PEOPLE)]
        """Of different databases, as buckets lie in turn."""

    async def work(self) -> None:
        draw = self._process.random
        while True:
            await asyncio.sleep(draw.random() * 0.1)
            address = draw.choice(ADDRESSES)
            what = draw.choice(("set", "set", "set", "delete", "find", "find", "release"))
            await getattr(self, f"_{what}")(draw.choice(self._keys), address)

    async def _set(self, key: int, address: str) -> None:
        call = self._begin("set", key, address)
        try:
            await self._index.write(key, address, lambda tx: tx.execute(_SET, (key, address)))
            self._history.ok(call)
        except Conflict as taken:
            self._history.fail(call, taken.code)
        except Error as error:
            self._history.unknown(call, error.code)

    async def _delete(self, key: int, _: str) -> None:
        call = self._begin("delete", key, "")

        async def unit(tx: Tx) -> None:
            await tx.execute("DELETE FROM users WHERE id = ?", (key,))

        try:
            await self._sharded.store_of(key).write(unit)
            self._history.ok(call)
        except Error as error:
            self._history.unknown(call, error.code)

    async def _find(self, _: int, address: str) -> None:
        call = self._begin("find", None, address)
        try:
            found = await self._index.find(address)
            self._history.ok(call, found)
        except Error as error:
            self._history.fail(call, error.code)

    async def _release(self, _: int, address: str) -> None:
        try:
            await self._index.release(address)
        except Error as error:
            self._process.note(f"releasing {address}: {error.code}")

    def _begin(self, what: str, key: int | None, address: str) -> Call:
        return self._history.invoke(self._process.name, what, key, (address, self._process.number))


async def tell(world: World, without: str) -> Sequence[str]:
    """Everybody at once; then a last sweep, and a look at all that is there."""

    async def serve(process: Process) -> None:
        client = Client(world, process, *await open_index(process, without))
        await asyncio.gather(client.work(), client.work())

    async def sweep(process: Process) -> None:
        _, index = await open_index(process, without)
        while True:
            await asyncio.sleep(process.random.random())
            try:
                await index.sweep(older_than_s=process.random.choice((-5.0, 0.0, 0.5)))
            except Error as error:
                process.note(f"sweeping: {error.code}")

    found: list[str] = []
    names = [f"node-{number}" for number in range(NODES)]
    for name in names:
        world.node(name).start(serve)
    world.node("sweeper").start(sweep)
    watching = world.spawn(_watch(world, found))
    await asyncio.sleep(BUSY_S)
    world.heal()
    for name in (*names, "sweeper"):
        world.node(name).stop()
    watching.cancel()
    answers: dict[str, object] = {}

    async def settle(process: Process) -> None:
        _, index = await open_index(process, without)
        await index.sweep(older_than_s=-60.0)
        for address in ADDRESSES:
            answers[address] = await index.find(address)
        answers["over"] = True

    world.node("last", crashes=False).start(settle)
    for _ in range(int(QUIET_S)):
        await asyncio.sleep(1.0)
        if answers.get("over"):
            break
    else:
        found.append(f"the last sweep was not over after {QUIET_S:g} s without faults")
    return [*found, *_judge(world, answers)]


def _holders(world: World) -> dict[str, list[int]]:
    """Who has which address, in all databases."""
    holders: dict[str, list[int]] = {}
    for name in SHARDS:
        if world.database(name).has_table("users"):
            for key, email in world.database(name).rows_as(tuple[int, str], "SELECT id, email FROM users"):
                holders.setdefault(email, []).append(key)
    return holders


async def _watch(world: World, found: list[str]) -> None:
    """No address is ever held by two."""
    while not found:
        await asyncio.sleep(0.03)
        for address, keys in _holders(world).items():
            if len(keys) > 1:
                found.append(f"at {world.now_s:.3f} s {address} belongs to {sorted(keys)}")


def _judge(world: World, answers: dict[str, object]) -> list[str]:
    holders = _holders(world)
    found = [f"in the end {address} belongs to {keys}" for address, keys in holders.items() if len(keys) > 1]
    entries: dict[str, int] = {}
    for name in SHARDS:
        sql = "SELECT value, CAST(key_json AS INTEGER) FROM dougong_unique"
        entries.update(world.database(name).rows_as(tuple[str, int], sql))
    rows = {address: keys[0] for address, keys in holders.items()}
    found += [
        f"{address} is claimed for {key} and nobody has it" for address, key in entries.items() if address not in rows
    ]
    for address, key in rows.items():
        if entries.get(address) != key:
            found.append(f"{key} has {address}, which is claimed for {entries.get(address)}")
    for address in ADDRESSES:
        if answers.get("over") and answers.get(address) != rows.get(address):
            found.append(f"in the end {address} belongs to {rows.get(address)}, and {answers.get(address)} is found")
    has = {key: address for address, key in rows.items()}
    writes = [
        call for call in world.history.calls if call.what in ("set", "delete") and call.outcome is not Outcome.FAILED
    ]
    people = _People(writes)
    for key in range(NODES * PEOPLE):
        allowed = people.may_have(key, world.now_s, world.now_s)
        if has.get(key, "") not in allowed:
            found.append(f"{key} has {has.get(key, '')!r} in the end, which can only be one of {sorted(allowed)}")
    for call in world.history.calls:
        if call.what == "find" and call.outcome is Outcome.OK:
            found += people.wrong_answer(call)
        elif call.what == "set" and call.result == "unique_violated":
            found += people.wrong_refusal(call)
    return found


class _People:
    """What each may have had when, by what was acknowledged."""

    def __init__(self, writes: list[Call]) -> None:
        self._of: dict[int, list[Call]] = {}
        for call in writes:
            self._of.setdefault(cast(int, call.key), []).append(call)

    def may_have(self, key: int, from_s: float, to_s: float) -> set[str]:
        """Every address that this one may have had at some moment of that time; "" is none."""
        calls = [call for call in self._of.get(key, ()) if call.began_s <= to_s]
        done = [call for call in calls if call.outcome is Outcome.OK and cast(float, call.ended_s) <= from_s]
        live = [call for call in calls if not any(_before(call, other) for other in done)]
        return {_address(call) for call in live} | ({""} if not done else set())

    def wrong_answer(self, find: Call) -> list[str]:
        """`find` answered with one who cannot have had the address, or with nobody though one surely had it."""
        address, ended_s = _address(find), cast(float, find.ended_s)
        if find.result is not None:
            if address in self.may_have(cast(int, find.result), find.began_s, ended_s):
                return []
            return [f"at {ended_s:.3f} s {find.result} was found for {address}, and cannot have had it"]
        sure = [key for key in self._of if self.may_have(key, find.began_s, ended_s) == {address}]
        return [f"at {ended_s:.3f} s nobody was found for {address}, which {key} had" for key in sure]

    def wrong_refusal(self, call: Call) -> list[str]:
        """Somebody was told that the address was taken, and nobody can have had it."""
        address, ended_s = _address(call), cast(float, call.ended_s)
        others = [key for key in self._of if key != call.key]
        if any(address in self.may_have(key, call.began_s, ended_s) for key in others):
            return []
        return [f"at {ended_s:.3f} s {call.key} was refused {address}, which nobody else can have had"]


def _address(call: Call) -> str:
    return cast("tuple[str, int]", call.value)[0]


def _before(call: Call, other: Call) -> bool:
    """Whether one was surely over before the other began: it was answered, or its process was dead by then."""
    life, later = cast("tuple[str, int]", call.value)[1], cast("tuple[str, int]", other.value)[1]
    return life < later or (call.ended_s is not None and call.ended_s <= other.began_s)


story = Story(
    name="unique",
    title="No two people have one address, over all databases: registered, changed, deleted and swept at once.",
    tell=tell,
    chaos=Chaos(
        crash_every_s=3.0,
        down_s=0.5,
        write_s=0.02,
        write_slow=0.03,
        disk_full=0.01,
        disk_locked=0.02,
        disk_gone_every_s=15.0,
        disk_gone_s=1.0,
        clock_skew_s=1.0,
    ),
    safeguards=SAFEGUARDS,
)
