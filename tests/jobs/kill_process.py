"""Processes to be killed: `python -m tests.jobs.kill_process ROLE URL LOG JOURNAL NAME`, ROLE of worker, scheduler,
shop; LOG is a Kafka, or empty. A worker that is asked to end (SIGTERM) leaves as it should.

A shop takes orders: each is a row and jobs put in its transaction. Whatever it says in its journal was acknowledged.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from pathlib import Path
from typing import NamedTuple

import msgspec
import uvloop

from dougong.clock import SystemClock
from dougong.errors import Unavailable
from dougong.jobs import (
    Effects,
    Every,
    Misfire,
    NewJob,
    Overlap,
    Schedule,
    Scheduler,
    SchedulerSettings,
    SqlQueue,
    SqlQueueSettings,
    Worker,
    WorkerSettings,
    current_job,
    job,
    needs,
)
from dougong.jobs.kafka import KafkaQueue, KafkaQueueSettings
from dougong.store import Migration, Store, Tx, open_store

__all__ = ["FAILS", "HELD_S", "SCHEDULES", "TABLES", "AnyQueue", "Place", "open_queue"]

AnyQueue = SqlQueue | KafkaQueue

HELD_S = 1.5
"""Both a worker's term and a scheduler's lease."""
FAILS = 5
"""Every so many orders have a job that fails once, after its effect."""
WAITING_MAX = 60
DELAY_S = 0.2
TABLES = [
    Migration(1, "orders", "CREATE TABLE orders (n BIGINT NOT NULL PRIMARY KEY)"),
    # Nothing forbids an effect twice: that is what is to be seen.
    Migration(
        2, "made", "CREATE TABLE made (name VARCHAR(60) NOT NULL, job BIGINT NOT NULL, missing INTEGER NOT NULL)"
    ),
    Migration(3, "made_name", "CREATE INDEX made_name ON made (name)"),
]
WORKER = WorkerSettings(ttl_s=HELD_S, look_s=0.2, reap_every_s=0.3, drain_s=5.0, turn_timeout_s=10.0)
SCHEDULER = SchedulerSettings(interval_s=0.2, lease_ttl_s=HELD_S)


JOURNAL = os.open(sys.argv[4], os.O_WRONLY | os.O_APPEND | os.O_CREAT) if __name__ == "__main__" else -1


def say(line: str) -> None:
    """In one write: a kill leaves it whole, or nothing of it."""
    os.write(JOURNAL, f"{line}\n".encode())


@job(retries=1000)
async def make(
    name: str,
    after: list[str],
    ms: int,
    fails: bool = False,
    store: Store = needs(Store),
) -> None:
    """An effect, written once, that sees those it comes after."""
    run = current_job()
    await asyncio.sleep(ms / 1000)

    async def unit(tx: Tx) -> bool:
        if not await run.first(tx):
            return False
        missing = [one for one in after if await tx.fetch_one("SELECT 1 FROM made WHERE name = ?", (one,)) is None]
        await tx.execute("INSERT INTO made (name, job, missing) VALUES (?, ?, ?)", (name, run.id, len(missing)))
        return True

    if not await store.write(unit):
        say(f"again {run.id}")
    await asyncio.sleep(ms / 1000)
    if fails and run.attempt == 1:
        raise ValueError("after its effect")


@job(retries=1000)
async def tick(
    store: Store = needs(Store),
) -> None:
    """The same, of a fire."""
    run = current_job()

    async def unit(tx: Tx) -> None:
        if await run.first(tx):
            await tx.execute("INSERT INTO made (name, job, missing) VALUES (?, ?, 0)", (f"tick {run.id}", run.id))

    await store.write(unit)


SCHEDULES = [
    Schedule("beside", Every(1), tick.call(), Misfire.ALL, overlap=Overlap.PARALLEL),
    Schedule("in turn", Every(1), tick.call(), Misfire.ALL, overlap=Overlap.QUEUE),
    Schedule("shards", Every(1), tick.call(), Misfire.ALL, overlap=Overlap.PARALLEL, shards=2),
]


class Place(NamedTuple):
    """Where the jobs are."""

    url: str
    log: str = ""
    """`host:port/prefix` of a Kafka; without it they are all in the database."""


def open_queue(store: Store, place: Place) -> AnyQueue:
    """No job is given up, however often its worker is killed."""
    rows = SqlQueueSettings(stalls_max=1_000_000)
    if not place.log:
        return SqlQueue(store, SystemClock(), rows, reopen=lambda: open_store(place.url))
    servers, _, prefix = place.log.partition("/")
    settings = KafkaQueueSettings(
        prefix=prefix,
        partitions=4,
        replicas=1,
        session_s=HELD_S,
        held_max=20,
        commit_every_s=0.2,
        answer_s=5.0,
        join_s=2.0,
        purge_every_s=1.0,
    )
    return KafkaQueue(store, servers, SystemClock(), settings, rows=rows, reopen=lambda: open_store(place.url))


async def work(queue: AnyQueue, store: Store, name: str) -> None:
    async def provide(kind: type) -> object:
        return store

    await Effects(store, SystemClock()).start()
    worker = Worker(queue, [make, tick], provide=provide, settings=WORKER, name=name)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
    await worker.run()


async def schedule(queue: AnyQueue, store: Store, name: str) -> None:
    scheduler = Scheduler(queue, store, SCHEDULES, settings=SCHEDULER, name=name)
    await scheduler.start()
    await scheduler.run()


async def shop(queue: AnyQueue, store: Store, stop: Path, name: str) -> None:
    """Orders until there is a file `stop` beside the journal; of each life the numbers begin elsewhere."""
    draw = random.Random()
    n = int(name)
    while not stop.exists():
        try:
            while any(counts.waiting > WAITING_MAX for counts in await queue.counts()):
                await asyncio.sleep(0.05)
            n += 1
            await order(queue, store, n, draw)
        except Unavailable:
            continue
        await asyncio.sleep(0.01)


async def order(queue: AnyQueue, store: Store, n: int, draw: random.Random) -> None:
    """One job by its key, asked for twice; two that need nothing of the kind, put together, and one for later; with the
    order's row a chain of three, and three that lead to one.
    """

    def call(what: str, *after: str) -> NewJob:
        fails = n % FAILS == 0 and what in ("chain 1", "member 1")
        return make.call(f"{n} {what}", [f"{n} {one}" for one in after], draw.choice((0, 0, 5, 30)), fails)

    alone = msgspec.structs.replace(call("alone"), key=f"alone {n}")
    (once,) = await queue.put([alone])
    say(f"put {once.id}")
    (twice,) = await queue.put([alone])
    if (twice.id, twice.new) != (once.id, False):
        say(f"wrong {once} {twice}")
    plain = await queue.put([call("plain 0"), call("plain 1")])
    say(f"put {' '.join(str(one.id) for one in plain)}")
    due_us = SystemClock().now_us() + round(DELAY_S * 1e6)
    (later,) = await queue.put([msgspec.structs.replace(call("later"), due_us=due_us)])
    say(f"put {later.id}")
    chain = [call("chain 0"), call("chain 1", "chain 0"), call("chain 2", "chain 1")]
    members = [call(f"member {index}") for index in range(3)]

    async def unit(tx: Tx) -> list[int]:
        await tx.execute("INSERT INTO orders (n) VALUES (?)", (n,))
        (first,) = await queue.put([msgspec.structs.replace(chain[0], then=tuple(chain[1:]))], tx)
        group, put = await queue.put_group(members, call("closing", "member 0", "member 1", "member 2"), tx)
        return [first.id, group, *(one.id for one in put)]

    ids = await store.write(unit)
    say(f"put {' '.join(map(str, ids))}")
    say(f"order {n}")


async def main(role: str, url: str, log: str, journal: str, name: str) -> None:
    store = await open_store(url, name=name)
    queue = open_queue(store, Place(url, log))
    await queue.start()
    if role == "worker":
        await work(queue, store, name)
    elif role == "scheduler":
        await schedule(queue, store, name)
    else:
        await shop(queue, store, Path(journal).with_name("stop"), name)
    await queue.close()
    await store.close()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
