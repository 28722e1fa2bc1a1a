"""kill -9 of workers, schedulers and who enqueues, and long silences of them, under load, while workers leave and join:
every job is done, each effect made once, each fire there once. On the databases, and on a log with a database.

`DOUGONG_JOB_KILLS=200` kills more often than the default; `-o log_cli=true --log-cli-level=INFO` says what came of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import secrets
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import cast

import pytest
from tests.engines import database_url, kafka
from tests.jobs.kill_process import HELD_S, SCHEDULES, TABLES, AnyQueue, Place, open_queue

from dougong.clock import SystemClock
from dougong.jobs import Effects, FireDecision, QueueCounts, Schedules
from dougong.jobs.kafka import KafkaQueue
from dougong.store import Row, Store, open_store

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
WORKERS = ("worker-1", "worker-2", "worker-3")
SCHEDULERS = ("scheduler-1", "scheduler-2")
SHOP = "shop"
PATIENCE_S = 120.0
DONE = 4
"""As stored."""
FIRST_OF_LOG = 1 << 61
"""Ids from there on say where in the log their jobs were."""


class Processes:
    """Started again when they are killed."""

    def __init__(self, place: Place, folder: Path) -> None:
        self._place = place
        self._folder = folder
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._lives = 0
        for name in (*WORKERS, *SCHEDULERS, SHOP):
            self.start(name)

    def start(self, name: str) -> None:
        role = name.partition("-")[0]
        self._lives += 1
        life = str(self._lives * 1_000_000) if role == SHOP else name
        with (self._folder / f"{name}.log").open("ab") as log:
            self._children[name] = subprocess.Popen(
                [sys.executable, "-m", "tests.jobs.kill_process", role, *self._place, self._journal(name), life],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])},
            )

    def kill(self, name: str) -> None:
        assert self._children[name].poll() is None, f"{name} ended by itself: {self.log(name)}"
        self._children[name].kill()
        self._children[name].wait()

    async def leave(self, name: str) -> None:
        """As at a deployment: it gives back what it holds, and says goodbye to the group that reads the log."""
        child = self._children[name]
        child.terminate()
        async with asyncio.timeout(PATIENCE_S):
            while child.poll() is None:
                await asyncio.sleep(0.02)
        assert child.returncode in (0, -signal.SIGTERM), f"{name} ended badly: {self.log(name)}"  # not begun: killed

    async def silence(self, name: str) -> None:
        """As a long pause of its machine is: it wakes up when what it held is another's."""
        self._children[name].send_signal(signal.SIGSTOP)
        await asyncio.sleep(HELD_S * 1.5)
        self._children[name].send_signal(signal.SIGCONT)

    def ended(self, name: str) -> bool:
        return self._children[name].poll() == 0

    def stop(self) -> None:
        for child in self._children.values():
            child.kill()
            child.wait()

    def journal(self, name: str) -> list[list[str]]:
        return [line.split() for line in self._journal(name).read_text().splitlines()]

    def _journal(self, name: str) -> Path:
        return self._folder / f"{name}.journal"

    def log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text()[-3000:]


@contextlib.contextmanager
def place_of(engine: str, folder: Path) -> Generator[Place]:
    """A fresh database; with a log of its own for Kafka."""
    with database_url("sqlite" if engine == "kafka" else engine, folder) as url:
        yield Place(url, f"{kafka().address}/kill{secrets.token_hex(6)}." if engine == "kafka" else "")


@pytest.mark.parametrize(
    ("engine", "kills"),
    [
        pytest.param("sqlite", 5, marks=pytest.mark.xdist_group("kill-sqlite")),
        pytest.param("mysql", 5, marks=pytest.mark.xdist_group("kill-mysql")),
        pytest.param("postgresql", 5, marks=pytest.mark.xdist_group("kill-postgresql")),
        pytest.param("kafka", 3, marks=pytest.mark.xdist_group("kafka")),
    ],
)
async def test_no_kill_loses_a_job_or_doubles_an_effect(engine: str, kills: int, tmp_path: Path) -> None:
    kills = int(os.environ.get("DOUGONG_JOB_KILLS", kills))
    seed = random.SystemRandom().randrange(1 << 32)
    draw = random.Random(seed)
    with place_of(engine, tmp_path) as place:
        store = await open_store(place.url)
        queue = open_queue(store, place)
        schedules = Schedules(queue, store)
        await store.migrate("tests", TABLES)
        await queue.start()
        await schedules.start()
        await Effects(store, SystemClock()).start()
        processes = Processes(place, tmp_path)
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not await store.fetch_one("SELECT 1 FROM made LIMIT 1"):
                    await asyncio.sleep(0.05)
            silent = left = 0
            for number in range(kills):
                await asyncio.sleep(draw.uniform(0.05, 0.6))
                if number % 3 == 2:
                    silent += 1
                    leader = await schedules.holder() if draw.random() < 0.5 else ""
                    await processes.silence(leader or draw.choice(WORKERS))
                if number % 3 == 1:
                    left += 1
                    leaver = draw.choice(WORKERS)
                    await processes.leave(leaver)
                    processes.start(leaver)
                victim = draw.choice((*WORKERS, *WORKERS, *SCHEDULERS, SHOP))
                processes.kill(victim)
                await asyncio.sleep(draw.choice((0.0, 0.0, 0.3)))
                processes.start(victim)
            (tmp_path / "stop").touch()
            async with asyncio.timeout(PATIENCE_S):
                while not processes.ended(SHOP):
                    await asyncio.sleep(0.05)
            for name in SCHEDULERS:
                processes.kill(name)
            async with asyncio.timeout(PATIENCE_S):
                while any(one.waiting or one.blocked or one.running for one in await queue.counts()):
                    await asyncio.sleep(0.1)
        finally:
            processes.stop()
        try:
            found, told = await problems(queue, store, processes)
            told = f"{engine}, seed {seed}: {kills} kills, {silent} silences, {left} left and joined, {told}"
            logging.getLogger(__name__).info(told)
            if engine in ("sqlite", "kafka") and not found:
                await each_damage_is_found(queue, store, processes)
        finally:
            await queue.close()
            await store.close()
    assert not found, (told, found[:20])


async def problems(queue: AnyQueue, store: Store, processes: Processes) -> tuple[list[str], str]:
    """What is wrong, and what happened."""
    rows = await store.fetch_all("SELECT id, state, stalls, schedule FROM dougong_jobs")
    jobs = {cast(int, row[0]): row[1:] for row in rows}
    effects = cast("list[tuple[str, int, int]]", await store.fetch_all("SELECT name, job, missing FROM made"))
    journal = processes.journal(SHOP)
    put = {int(id_) for what, *ids in journal if what == "put" for id_ in ids}
    told = {int(words[0]) for what, *words in journal if what == "order"}
    orders = {cast(int, n) for (n,) in await store.fetch_all("SELECT n FROM orders")}
    fires, found = await fires_of(queue, store, jobs)

    in_log = sum(id_ >= FIRST_OF_LOG for id_ in put)
    if isinstance(queue, KafkaQueue) and not 0 < in_log < len(put):
        found.append(f"{in_log} of {len(put)} jobs came by the log: both ways are to be seen")
    found += [f"job {id_} is in state {row[0]!r}" for id_, row in jobs.items() if row[0] != DONE]
    found += twice("jobs with an effect", [job for _, job, _ in effects])
    found += twice("effects", [name for name, _, _ in effects])
    found += [f"job {id_} had no effect" for id_ in jobs.keys() - {job for _, job, _ in effects}]
    found += [f"{name!r} was made by a job that is not there" for name, job, _ in effects if job not in jobs]
    found += [f"{name} was made before {missing} that come first" for name, _, missing in effects if missing]
    found += [f"job {id_} was acknowledged, and is gone" for id_ in put - jobs.keys()]
    found += [f"order {n} was acknowledged, and is gone" for n in told - orders]
    # An order and its jobs were written in one transaction, so that one acknowledged by nobody is whole or not there.
    of_order = Counter(
        int(name.split()[0]) for name, *_ in effects if name.split()[1] in ("chain", "member", "closing")
    )
    found += [f"order {n} had {of_order[n]} effects of 7" for n in orders | of_order.keys() if of_order[n] != 7]
    found += [f"there are jobs of {n}, which is no order" for n in of_order.keys() - orders]
    found += [" ".join(line) for line in journal if line[0] == "wrong"]
    # Kept instead of counted
    found += [f"still in a line: {row!r}" for row in await store.fetch_all("SELECT * FROM dougong_job_lines")]
    (counts,) = await queue.counts()
    if counts != QueueCounts(queue="default", done=len(jobs)):
        found.append(f"counted {counts}, there are {len(jobs)} jobs, all done")

    stalls = sum(cast(int, row[1]) for row in jobs.values())
    again = sum(line[0] == "again" for name in WORKERS for line in processes.journal(name))
    return found, (
        f"{len(jobs)} jobs ({sum(id_ >= FIRST_OF_LOG for id_ in jobs)} by the log), {len(put)} of them acknowledged to "
        f"the shop, {len(orders)} orders, {fires} fires; "
        f"{stalls} times a job was taken back, {again} times an effect was not repeated"
    )


async def fires_of(queue: AnyQueue, store: Store, jobs: dict[int, Row]) -> tuple[int, list[str]]:
    """How many there were, and what is wrong with them."""
    count, found = 0, list[str]()
    for schedule in SCHEDULES:
        occurrences = await Schedules(queue, store).occurrences(schedule.name, limit=1_000_000)
        seconds = sorted(one.fire_us // 1_000_000 for one in occurrences)
        if not seconds or seconds != list(range(seconds[0], seconds[-1] + 1)):
            found.append(f"{schedule.name} fired at {seconds}")
        found += [f"{one}" for one in occurrences if one.decision is not FireDecision.FIRED or one.fires != 1]
        fired = sorted(id_ for one in occurrences for id_ in one.jobs)
        there = sorted(id_ for id_, row in jobs.items() if row[2] == schedule.name)
        if fired != there or len(there) != schedule.shards * len(seconds):
            found.append(f"{schedule.name} fired {len(seconds)} times the jobs {fired}, and there are {there}")
        count += len(seconds)
    return count, found


DAMAGES = (
    "INSERT INTO made SELECT name, job, 0 FROM made WHERE job = (SELECT min(job) FROM made)",  # twice
    "DELETE FROM made WHERE job = (SELECT max(job) FROM made)",
    "DELETE FROM dougong_jobs WHERE id = (SELECT min(id) FROM dougong_jobs)",
    "UPDATE dougong_jobs SET state = 1 WHERE id = (SELECT max(id) FROM dougong_jobs)",
    "DELETE FROM orders WHERE n = (SELECT min(n) FROM orders)",
    "INSERT INTO orders (n) VALUES (0)",  # without its jobs
    "UPDATE made SET missing = 1 WHERE name LIKE '%chain 1'",  # before the one before it
    "DELETE FROM dougong_job_occurrences WHERE schedule = 'beside' AND fire_us % 3000000 = 0",
    "UPDATE dougong_jobs SET schedule = 'shards' WHERE id = (SELECT min(id) FROM dougong_jobs WHERE schedule IS NULL)",
)
"""What must not be, each apart from the others."""


async def each_damage_is_found(queue: AnyQueue, store: Store, processes: Processes) -> None:
    """Ablation: who judges is shown one after the other."""
    before = 0
    for sql in DAMAGES:
        assert await store.write(lambda tx, sql=sql: tx.execute(sql)) > 0  # type: ignore[misc]
        found, _ = await problems(queue, store, processes)
        assert len(found) > before, sql
        before = len(found)


def twice(what: str, those: Sequence[object]) -> list[str]:
    return [f"{what} twice: {one}" for one, count in Counter(those).items() if count > 1]
