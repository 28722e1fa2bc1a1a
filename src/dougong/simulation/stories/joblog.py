"""Jobs in a log: members of a group that take them by priority, so out of order, and hand partitions on all the time.

The core under test is what `jobs.kafka` knows of a partition (`Assignment`, the offset map) and how a job comes out of
the log (`claim`, which writes a row). The broker here is one that never fails, with sessions, generations and commits;
members are killed and stand still, and so does the database. Rows of finished jobs are forgotten as
soon as may be, while what has no priority waits at the head of the log: then nothing but the map says that those behind
it ran.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import cast

from dougong.errors import Error
from dougong.jobs.kafka.assignment import Assignment, Commit, Held, Part
from dougong.jobs.kafka.claiming import claim
from dougong.jobs.kafka.offsets import METADATA_BYTES_MAX, read_map
from dougong.jobs.kafka.records import LogJob, id_of, spot_of
from dougong.jobs.kafka.waiting import Depth
from dougong.jobs.sql.step import Step
from dougong.simulation.faults import Chaos
from dougong.simulation.node import Process
from dougong.simulation.stories.jobs.place import set_up
from dougong.simulation.story import Story
from dougong.simulation.world import World
from dougong.store import MemoryDatabase, Row, Tx, Value

__all__ = ["story"]

PARTS = (Part("default", 0), Part("default", 1), Part("default", 2))
LANES = {part: lane for lane, part in enumerate(PARTS, 1)}
STORM_S = 60.0
SETTLED_S = 60.0
SESSION_S = 1.0
COMMIT_S = 0.5
HELD_MAX = 400


class Broker:
    """The log and its group: who has which partition, since which generation, and what was committed of it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.log: dict[Part, list[list[LogJob]]] = {part: [] for part in PARTS}
        self.committed: dict[Part, tuple[int, str]] = dict.fromkeys(PARTS, (0, ""))
        self._owners: dict[Part, str] = {}
        self._seen: dict[str, float] = {}
        self._generation = 0

    def beat(self, member: str) -> tuple[int, frozenset[Part]]:
        """A member lives; the generation, and what it has in it."""
        self._seen[member] = self._world.now_s
        if member not in self._owners.values():
            self._deal()
        return self._generation, frozenset(part for part, owner in self._owners.items() if owner == member)

    def expire(self) -> None:
        """Those that were silent for too long have nothing any more."""
        now_s = self._world.now_s
        gone = [member for member, at_s in self._seen.items() if at_s < now_s - SESSION_S]
        for member in gone:
            del self._seen[member]
        if gone:
            self._deal()

    def leave(self, member: str) -> None:
        if self._seen.pop(member, None) is not None:
            self._deal()

    def commit(self, generation: int, commits: Sequence[Commit]) -> bool:
        """Taken from who is in this generation; a member that was thought dead is told so."""
        if generation != self._generation:
            return False
        for commit in commits:
            assert len(commit.metadata) <= METADATA_BYTES_MAX
            self.committed[commit.part] = commit.offset, commit.metadata
        return True

    def _deal(self) -> None:
        self._generation += 1
        members = sorted(self._seen)
        self._owners = {part: members[(n + self._generation) % len(members)] for n, part in enumerate(PARTS) if members}


class Member:
    """One process: reads, takes, writes rows, says what is settled."""

    def __init__(self, tale: Tale, process: Process) -> None:
        self._tale = tale
        self._draw = process.random
        self._store = process.store("jobs")
        self._clock = process.clock
        self._name = f"{process.name}/{process.number}"
        self._assignment = Assignment(HELD_MAX, SESSION_S)
        self._generation = 0
        self._at: dict[Part, int] = {}

    async def live(self) -> None:
        await asyncio.gather(self._read(), self._work(), self._commit())

    async def _read(self) -> None:
        """The poll loop, which is where partitions come and go."""
        broker, assignment = self._tale.broker, self._assignment
        while True:
            generation, parts = broker.beat(self._name)
            assignment.polled(self._clock.monotonic())
            if generation != self._generation:
                # All of it is new: another may have had in between what was ours and is again.
                assignment.lose(list(self._at))
                self._at = {}
                for part in sorted(parts):
                    low, metadata = broker.committed[part]
                    finished = self._tale.read_map(metadata, low, len(broker.log[part]))
                    assignment.gain(part, LANES[part], low, finished)
                    self._at[part] = low
                self._generation = generation
            for part, at in self._at.items():
                if assignment.missing([part]):
                    fresh = broker.log[part][at : at + self._draw.randint(1, 40)]
                    for offset, jobs in enumerate(fresh, at):
                        assignment.read(part, offset, jobs)
                    self._at[part] = at + len(fresh)
            await asyncio.sleep(self._draw.random() * 0.4)

    async def _work(self) -> None:
        """Fewer than come, while it storms: what is last by priority waits."""
        while True:
            await asyncio.sleep(self._draw.random() * (0.1 if self._tale.over else 0.5))
            taken = self._assignment.take("default", self._draw.randint(1, 4))
            try:
                settled = await self._claim(taken) if taken else []
            except Error:  # nobody knows whether it was written: asked for again, the rows say
                self._assignment.give_back(taken)
                continue
            written = {held.id for held in settled}
            self._assignment.settle(settled)
            self._assignment.give_back([held for held in taken if held.id not in written])

    async def _claim(self, taken: Sequence[Held]) -> list[Held]:
        """Rows for them, in one unit with the note that they run; they are done at once."""
        most = self._draw.randint(1, len(taken))

        async def unit(tx: Tx) -> list[Held]:
            mine = taken if self._tale.without == "mine" else self._assignment.mine(taken, self._clock.monotonic())
            step = Step(self._tale.looked(tx), self._tale.clock.now_us(), "sqlite")
            claimed, settled = await claim(step, 1, "default", mine, most)
            ids = [(one.id,) for one in claimed]
            await tx.execute_many("INSERT INTO story_ran (id) VALUES (?)", ids)
            await tx.execute_many(f"UPDATE dougong_jobs SET state = 4, finished_us = {step.now_us} WHERE id = ?", ids)  # noqa: S608
            return settled

        return await self._store.write(unit)

    async def _commit(self) -> None:
        while True:
            await asyncio.sleep(COMMIT_S * (0.5 + self._draw.random()))
            commits = self._assignment.commits()
            if not self._tale.broker.commit(self._generation, commits):
                self._assignment.not_committed(commit.part for commit in commits)


class _Blind:
    """A transaction that finds no row of a job."""

    def __init__(self, tx: Tx) -> None:
        self._tx = tx

    async def execute(self, sql: str, parameters: Sequence[Value] = ()) -> int:
        return await self._tx.execute(sql, parameters)

    async def execute_many(self, sql: str, rows: Iterable[Sequence[Value]]) -> int:
        return await self._tx.execute_many(sql.replace("INSERT INTO", "INSERT OR REPLACE INTO"), rows)

    async def fetch_all(self, sql: str, parameters: Sequence[Value] = ()) -> list[Row]:
        del sql, parameters
        return []

    async def fetch_one(self, sql: str, parameters: Sequence[Value] = ()) -> Row | None:
        return await self._tx.fetch_one(sql, parameters)


class Tale:
    """One telling."""

    def __init__(self, world: World, without: str) -> None:
        self.world = world
        self.without = without
        self.over = False
        self.database = world.database("jobs")
        self.database.set_up(_tables)
        self.clock = world.node("clock", crashes=False).clock
        self.broker = Broker(world)

    async def tell(self) -> Sequence[str]:
        world = self.world
        for number in (1, 2, 3):
            world.node(f"member-{number}").start(self._take_part)
        world.node("retention", crashes=False).start(self._forget)
        beats = world.spawn(self._expire())
        puts = world.spawn(self._put())
        await asyncio.sleep(STORM_S)
        puts.cancel()
        self.over = True
        world.heal()
        for _ in range(int(SETTLED_S)):
            await asyncio.sleep(1.0)
            if all(self.broker.committed[part][0] == len(log) for part, log in self.broker.log.items()):
                break
        beats.cancel()
        return list(self._judge())

    async def _take_part(self, process: Process) -> None:
        await Member(self, process).live()

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(0.1)
            self.broker.expire()

    async def _put(self) -> None:
        """Records of one to three jobs; those last by priority come first, and wait."""
        draw = self.world.random
        while True:
            part = draw.choice(PARTS)
            some = [9 if draw.random() < 0.2 else draw.randint(0, 8) for _ in range(draw.randint(1, 3))]
            self.broker.log[part].append([LogJob("job", b"{}", 0, each) for each in some])
            await asyncio.sleep(draw.random() * 0.12)

    async def _forget(self, process: Process) -> None:
        store = process.store("jobs")

        async def unit(tx: Tx) -> None:
            rows = await tx.fetch_all("SELECT id FROM dougong_jobs WHERE state = 4")
            ids = [id_ for (id_,) in cast("list[tuple[int]]", rows)]
            await tx.execute_many("DELETE FROM dougong_jobs WHERE id = ?", [(i,) for i in ids if not self.stays(i)])

        while True:
            await asyncio.sleep(1.0)
            try:
                await store.write(unit)
            except Error:
                continue

    def stays(self, id_: int) -> bool:
        """As `KafkaQueue` keeps rows that nothing else speaks for."""
        spot = spot_of(id_)
        assert spot is not None
        (part,) = (part for part, lane in LANES.items() if lane == spot.lane)
        low, metadata = self.broker.committed[part]
        depth = Depth(low, len(self.broker.log[part]), frozenset(read_map(metadata, low, len(self.broker.log[part]))))
        return self.without != "kept" and depth.needs_row(spot.offset)

    def read_map(self, metadata: str, low: int, end: int) -> Collection[int]:
        return () if self.without == "map" else read_map(metadata, low, end)

    def looked(self, tx: Tx) -> Tx:
        return _Blind(tx) if self.without == "rows" else tx

    def _judge(self) -> Iterator[str]:
        ran: Mapping[int, int] = dict(
            self.database.rows_as(tuple[int, int], "SELECT id, count(*) FROM story_ran GROUP BY id")
        )
        for part, log in self.broker.log.items():
            for offset, jobs in enumerate(log):
                for number in range(len(jobs)):
                    times = ran.get(id_of(LANES[part], offset, number), 0)
                    if times != 1:
                        yield f"job {number} of record {offset} in {part.queue}/{part.partition} ran {times} times"
            low = self.broker.committed[part][0]
            if low != len(log):
                yield f"{part.queue}/{part.partition} is over below {low}, and all {len(log)} records are settled"


def _tables(database: MemoryDatabase) -> None:
    set_up(database)
    database.run_script("CREATE TABLE story_ran (number INTEGER PRIMARY KEY, id INTEGER)")


async def _tell(world: World, without: str) -> Sequence[str]:
    return await Tale(world, without).tell()


story = Story(
    name="joblog",
    title="jobs in a log, taken out of order, by a group whose members come and go",
    tell=_tell,
    safeguards={
        "map": "the offsets above the committed one that are settled, beside it in the commit",
        "kept": "a row is not forgotten while a record that is read again needs it",
        "mine": "what became another's meanwhile is not written down",
        "rows": "a job that a row speaks for is not taken again",
    },
    chaos=Chaos(
        crash_every_s=10.0,
        down_s=1.0,
        still_every_s=15.0,
        still_s=2.0,
        write_slow=0.003,
        disk_full=0.006,
        disk_locked=0.006,
        disk_gone_every_s=30.0,
        disk_gone_s=0.5,
    ),
)
