"""Real processes, one stopped, one killed, one woken: every second has one fire, and terms follow each other."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import cast

import pytest
from tests.jobs.schedules.world import SECOND, TABLE, World

from dougong.jobs.schedules.rows import Occurrence
from dougong.store import Migration, open_store

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[3]


class Stage:
    """A database, and processes that fire."""

    def __init__(self, world: World, url: str) -> None:
        self.world = world
        self.url = url
        self.living: dict[str, subprocess.Popen[bytes]] = {}

    def begin(self, name: str) -> None:
        self.living[name] = subprocess.Popen(
            [sys.executable, "-m", "tests.jobs.schedules.firing_process", self.url, name],
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])},
        )

    def end(self, name: str) -> None:
        process = self.living.pop(name)
        process.kill()
        process.wait()

    async def fires(self) -> list[Occurrence]:
        return list(reversed(await self.world.operate.occurrences("secondly", limit=1000)))

    async def leader(self, *, other_than: str = "", within_s: float = 60.0) -> str:
        """Whoever leads, once it has fired twice more."""
        async with asyncio.timeout(within_s):
            while not (holder := await self.world.operate.holder()) or holder == other_than:
                await asyncio.sleep(0.05)
            begin = len(await self.fires())
            while len(await self.fires()) < begin + 2:
                await asyncio.sleep(0.05)
        return holder

    async def stop_leader(self, leader: str) -> str:
        """SIGSTOP, as a long pause of a machine is; whoever leads then. One that was stopped in the middle of a
        transaction keeps all others out, and is woken for another try.
        """
        while True:
            self.living[leader].send_signal(signal.SIGSTOP)
            try:
                return await self.leader(other_than=leader, within_s=10.0)
            except TimeoutError:
                self.living[leader].send_signal(signal.SIGCONT)
                leader = await self.leader()


@pytest.fixture
async def stage(fresh_url: Callable[[], str]) -> AsyncIterator[Stage]:
    url = fresh_url()
    store = await open_store(url)
    await store.migrate("fake", [Migration(1, "jobs", TABLE)])
    world = World(store, by_hand=False)
    await world.operate.start()
    made = Stage(world, url)
    yield made
    for name in list(made.living):
        made.end(name)
    await store.close()


async def test_one_stopped_one_killed_one_woken(stage: Stage) -> None:
    for name in ("a", "b", "c"):
        stage.begin(name)
    first = await stage.leader()
    second = await stage.stop_leader(first)
    stopped = next(name for name in stage.living if _is_stopped(stage.living[name].pid))
    stage.end(second)
    third = await stage.leader(other_than=second)
    assert third not in {stopped, second}
    stage.living[stopped].send_signal(signal.SIGCONT)
    assert await stage.leader() == third  # who wakes up does not interfere
    for name in list(stage.living):
        stage.end(name)
    fires = await stage.fires()
    seconds = [one.fire_us // SECOND for one in fires]
    assert seconds == list(range(seconds[0], seconds[-1] + 1))
    assert [one.term for one in fires] == sorted(one.term for one in fires)
    assert len({one.term for one in fires}) >= 3
    rows = await stage.world.store.fetch_all("SELECT id, due_us FROM fake_jobs ORDER BY due_us")
    assert [(cast(int, due_us), cast(int, id_)) for id_, due_us in rows] == [(one.fire_us, *one.jobs) for one in fires]


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
