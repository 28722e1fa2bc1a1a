"""Who enqueues, and who decides about what was enqueued."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import msgspec

from dougong.errors import Error
from dougong.jobs import Enqueued, NewJob, Queue, QueueSettings, Schedules
from dougong.simulation.node import Process
from dougong.simulation.stories.jobs.firing import SCHEDULES
from dougong.simulation.stories.jobs.working import JOBS
from dougong.store import Store, Tx

if TYPE_CHECKING:
    from dougong.simulation.stories.jobs import Tale

__all__ = ["Client", "Desk"]

_MARKS = ("a", "b", "c")
_QUEUES = ("default", "other")
KEYS = 8
"""So many keys are asked for at a time, again and again."""


class Client:
    """Enqueues in every way there is."""

    def __init__(self, tale: Tale, process: Process, store: Store, queue: Queue, number: int) -> None:
        self._tale = tale
        self._draw: random.Random = process.random
        self._store = store
        self._queue = queue
        self._name = f"{process.name}/{number}"
        self._clock = tale.clock

    async def live(self) -> None:
        ways = (self._one, self._one, self._many, self._with_order, self._keyed, self._chain, self._group)
        while not self._tale.over:
            await asyncio.sleep(self._draw.random() * 1.2)
            try:
                await self._draw.choice(ways)()
            except Error as error:
                self._tale.world.note(self._name, f"told {error.code}")

    async def _put(self, some: list[NewJob], *, tx: Tx | None = None) -> list[Enqueued]:
        enqueued = await self._queue.put(some, tx)
        if tx is None:
            self._tale.told(some, enqueued)
        return enqueued

    async def _one(self) -> None:
        await self._put([self._job(self._tale.label("j"))])

    async def _many(self) -> None:
        await self._put([self._job(self._tale.label("j")) for _ in range(self._draw.randint(2, 5))])

    async def _with_order(self) -> None:
        """In the client's own transaction: both or neither."""
        some = [self._job(self._tale.label("o"), sole=False) for _ in range(self._draw.randint(1, 2))]

        async def unit(tx: Tx) -> list[Enqueued]:
            await tx.execute_many("INSERT INTO story_orders VALUES (?)", [(_label(job),) for job in some])
            return await self._put(some, tx=tx)

        self._tale.told(some, await self._store.write(unit))

    async def _keyed(self) -> None:
        """The same again and again: who was told nothing asks until he is."""
        tale = self._tale
        if self._draw.random() < 0.3 or not tale.keyed:
            label = tale.label("k")
            tale.keyed[label] = msgspec.structs.replace(self._job(label, sole=False), key=label)
        label = self._draw.choice(list(tale.keyed)[-KEYS:])
        await self._put([tale.keyed[label]])

    async def _chain(self) -> None:
        label = self._tale.label("c")
        first, *rest = [self._job(f"{label}/{n}", sole=False) for n in range(self._draw.randint(2, 4))]
        await self._put([msgspec.structs.replace(first, then=tuple(rest))])

    async def _group(self) -> None:
        label = self._tale.label("g")
        members = [self._job(f"{label}/{n}", sole=False) for n in range(self._draw.randint(1, 3))]
        if self._draw.random() < 0.4:
            members[0] = msgspec.structs.replace(members[0], then=(self._job(f"{label}/0/then", sole=False),))
        then = JOBS["plain"].call(f"{label}/then")
        _, enqueued = await self._queue.put_group(members, then)
        self._tale.told(members, enqueued)

    def _job(self, label: str, *, sole: bool = True) -> NewJob:
        draw = self._draw
        kinds = ["plain", "plain", "plain", "urgent", "ordered", "ordered", "rated", "other", "newer"]
        kind = draw.choice([*kinds, "sole", "sole"] if sole else kinds)
        millis = draw.choice((0, 1, 20, 101, 400, 601, 750, 1500) if draw.random() < 0.5 else (2, 30))
        fails = draw.choice((0, 0, 0, 0, 1, 2, 9))
        if kind == "ordered":  # whole lines wait for it
            millis = min(millis, 400)
        made = JOBS[kind].call(label, millis, fails, draw.choice(_MARKS))
        due_us = self._clock.now_us() + int(draw.random() * 3e6) if draw.random() < 0.25 else None
        return msgspec.structs.replace(made, due_us=due_us, priority=draw.choice((made.priority, draw.randint(0, 9))))


class Desk:
    """An operator who cancels, replays, pauses and resizes, with or without reason."""

    def __init__(self, tale: Tale, process: Process, store: Store, queue: Queue) -> None:
        self._tale = tale
        self._draw: random.Random = process.random
        self._queue = queue
        self._schedules = Schedules(queue, store, clock=tale.clock)
        self._clock = tale.clock

    async def live(self) -> None:
        ways = (self._cancel, self._cancel, self._replay, self._configure, self._pause, self._resume, self._by_hand)
        while not self._tale.over:
            await asyncio.sleep(self._draw.random() * 0.8)
            try:
                await self._draw.choice(ways)()
            except Error as error:
                self._tale.world.note("desk", f"told {error.code}")

    async def toggle(self) -> None:
        """Pauses one schedule after the other for a moment, just when it fires if it so happens."""
        while not self._tale.over:
            await asyncio.sleep(self._draw.random() * 0.6)
            name = self._draw.choice(SCHEDULES).name
            try:
                await self._schedules.pause(name)
                await asyncio.sleep(self._draw.random() * 0.4)
                await self._schedules.resume(name)
            except Error as error:
                self._tale.world.note("desk", f"told {error.code}")

    async def end(self) -> None:
        """Leave nothing paused."""
        for queue in _QUEUES:
            await self._until_done(queue)

    async def pause_all(self) -> None:
        """The last thing: no schedule fires any more."""
        for schedule in SCHEDULES:
            await self._schedules.pause(schedule.name)

    async def resume_all(self) -> None:
        for schedule in SCHEDULES:
            await self._schedules.resume(schedule.name)

    async def _until_done(self, queue: str) -> None:
        self._tale.unpausing(queue)
        await self._queue.configure(queue, QueueSettings())

    async def _cancel(self) -> None:
        ids = self._some(self._tale.ids[-30:], 3)
        cancelled = await self._queue.cancel(ids)
        self._tale.cancelled(cancelled)

    async def _replay(self) -> None:
        rows = self._tale.database.rows("SELECT id FROM dougong_jobs WHERE state IN (5, 6) ORDER BY id DESC LIMIT 20")
        ids = self._some([int(str(id_)) for (id_,) in rows], 2)
        self._tale.replayed.update(ids)
        await self._queue.replay(ids)

    async def _configure(self) -> None:
        queue = self._draw.choice(_QUEUES)
        paused = self._draw.random() < 0.3
        self._tale.unpausing(queue)
        await self._queue.configure(queue, QueueSettings(concurrency=self._draw.choice((None, 1, 3, 8)), paused=paused))
        if paused:
            self._tale.paused(queue)

    async def _pause(self) -> None:
        if self._draw.random() < 0.5:
            await self._schedules.pause(self._draw.choice(SCHEDULES).name)

    async def _resume(self) -> None:
        await self._schedules.resume(self._draw.choice(SCHEDULES).name)

    async def _by_hand(self) -> None:
        name, now_us = self._draw.choice(SCHEDULES).name, self._clock.now_us()
        if self._draw.random() < 0.5:
            await self._schedules.run_now(name)
        else:
            await self._schedules.backfill(name, now_us - 8_000_000, now_us - 4_000_000)

    def _some(self, ids: list[int], count: int) -> list[int]:
        return sorted(set(self._draw.sample(ids, min(len(ids), self._draw.randint(1, count)))))


def _label(job: NewJob) -> str:
    return str(msgspec.json.decode(job.payload)["label"])
