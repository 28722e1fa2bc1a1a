"""Workers are killed at any moment: what was acknowledged is there, and each job has had its effect once."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from tests.jobs.queues import ends, new

from dougong.clock import SystemClock
from dougong.jobs import Effects, SqlQueue, State, Want, WorkerInfo
from dougong.store import Migration, Tx, open_store

pytestmark = pytest.mark.processes

LIVES = 3
ACKNOWLEDGED = 150
"""Lines of one life after which it may end."""

WORKER = """
import asyncio, os, sys
from dougong.clock import SystemClock
from dougong.jobs import Effects, Ended, NewJob, Outcome, SqlQueue, Want, WorkerInfo
from dougong.store import open_store

async def main(url):
    store = await open_store(url)
    queue, effects = SqlQueue(store, SystemClock()), Effects(store, SystemClock())
    await queue.start()
    term = await queue.attach(WorkerInfo(name=str(os.getpid())), 1.0)

    async def enqueue():
        while True:
            put = await queue.put([NewJob(job="count", payload=b"{}") for _ in range(3)])
            for one in put:
                os.write(1, b"put %d\\n" % one.id)  # acknowledged: from here on it must never be missing

    async def work():
        ended = []
        while True:
            turn = await queue.turn(term, ended, [Want("default", 4)])
            for end in ended:
                if end.claimed.id not in turn.lost:
                    os.write(1, b"done %d\\n" % end.claimed.id)
            ended = []
            for claimed in turn.claimed:
                async def effect(tx, id_=claimed.id):
                    if await effects.first(tx, id_):
                        await tx.execute("INSERT INTO seen (job) VALUES (?)", (id_,))
                await store.write(effect)
                ended.append(Ended(claimed=claimed, outcome=Outcome.DONE))

    async def renew():
        while await queue.renew(term, 1.0):
            await asyncio.sleep(0.2)

    await asyncio.gather(enqueue(), work(), renew())

asyncio.run(main(sys.argv[1]))
"""


def live_and_die(url: str, draw: random.Random) -> tuple[set[int], set[int]]:
    """What one process said was put, and done, until it was killed."""
    said: dict[bytes, set[int]] = {b"put": set(), b"done": set()}
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, url],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3] / "src")},
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        until = ACKNOWLEDGED + draw.randrange(100)
        for number, line in enumerate(process.stdout):
            if number == until:
                process.kill()  # what it says until it is dead counts, too
            if line.endswith(b"\n"):
                what, id_ = line.split()
                said[what].add(int(id_))
    return said[b"put"], said[b"done"]


async def test_what_was_acknowledged_survives_and_has_one_effect(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/jobs.db"
    store = await open_store(url)
    queue, effects = SqlQueue(store, SystemClock()), Effects(store, SystemClock())
    await queue.start()
    await effects.start()
    await store.migrate("test", [Migration(1, "seen", "CREATE TABLE seen (job BIGINT NOT NULL)")])
    put: set[int] = set()
    done: set[int] = set()
    for life in range(LIVES):
        some_put, some_done = await asyncio.to_thread(live_and_die, url, random.Random(life))
        put |= some_put
        done |= some_done
    assert put
    assert done

    async def effect(tx: Tx, id_: int) -> None:
        if await effects.first(tx, id_):
            await tx.execute("INSERT INTO seen (job) VALUES (?)", (id_,))

    await queue.put([new("last")])
    term = await queue.attach(WorkerInfo(name="last"), 600)
    async with asyncio.timeout(60):
        while any(counts.waiting or counts.running for counts in await queue.counts()):
            await queue.reap()  # those that died are missed only when their time is up
            turn = await queue.turn(term, [], [Want("default", 100)])
            for claimed in turn.claimed:
                await store.write(lambda tx, id_=claimed.id: effect(tx, id_))  # type: ignore[misc]
            await queue.turn(term, ends(turn.claimed), [])
            await queue.news(0.05)
    for stored in await queue.find(sorted(put | done)):
        assert stored is not None, "acknowledged, and gone"
        assert stored.state is State.DONE
    seen = [row[0] for row in await store.fetch_all("SELECT job FROM seen")]
    assert len(seen) == len(set(seen)), "an effect twice"
    assert set(seen) >= put
    await queue.close()
    await store.close()
