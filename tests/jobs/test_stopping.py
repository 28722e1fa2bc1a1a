"""Ctrl-C of a worker process: once, and what runs may end; twice, and it goes back at once. No attempt is spent."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest
from tests.jobs.stopping_process import for_ever, gate

from dougong.clock import SystemClock
from dougong.jobs import NewJob, SqlQueue, State, Stored
from dougong.store import Migration, open_store

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0
LOOPS = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


class Run:
    """A worker process on a fresh database, which has begun the first of these jobs."""

    def __init__(self, folder: Path, loop: str) -> None:
        self._url = f"sqlite:///{folder}/jobs.db"
        self._loop = loop

    async def begin(self, *jobs: NewJob) -> None:
        self.store = await open_store(self._url)
        self.queue = SqlQueue(self.store, SystemClock())
        await self.queue.start()
        await self.store.migrate("tests", [Migration(1, "opened", "CREATE TABLE opened (n INTEGER)")])
        self._ids = [one.id for one in await self.queue.put(jobs)]
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.jobs.stopping_process", self._loop, self._url,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])},
        )  # fmt: skip
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            while (line := await self.process.stdout.readline()).strip() != b"running":
                assert line, (await self.process.communicate())[1].decode()

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    async def interrupt_until_over(self) -> None:
        """Python raises it wherever it is, also where nobody hears it (a destructor): then press again."""
        async with asyncio.timeout(PATIENCE_S):
            while self.process.returncode is None:
                self.interrupt()
                await asyncio.wait({asyncio.ensure_future(self.process.wait())}, timeout=8.0)

    async def until_given_back(self, place: int) -> None:
        """Until the worker, which stops, gave that job back."""
        async with asyncio.timeout(PATIENCE_S):
            while (await self.rows())[place].state is not State.WAITING or (await self.rows())[place].attempts:
                await asyncio.sleep(0.02)

    async def rows(self) -> list[Stored]:
        return [row for row in await self.queue.find(self._ids) if row is not None]

    async def end(self) -> list[Stored]:
        """The jobs, once the process has ended by itself and in good order."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                _, said = await self.process.communicate()
        finally:
            if self.process.returncode is None:
                self.process.kill()
                await self.process.wait()
        assert "worker_failed" not in said.decode()
        assert "never retrieved" not in said.decode()
        rows = await self.rows()
        held = await self.store.fetch_all("SELECT id FROM dougong_jobs WHERE term IS NOT NULL")
        assert held == [], said.decode()
        await self.queue.close()
        await self.store.close()
        return rows


@LOOPS
async def test_once_and_what_runs_may_end(loop: str, tmp_path: Path) -> None:
    run = Run(tmp_path, loop)
    await run.begin(gate.call(), for_ever.call())
    run.interrupt()
    await run.until_given_back(1)
    assert run.process.returncode is None, "it waits"
    await run.store.write(lambda tx: tx.execute("INSERT INTO opened (n) VALUES (1)"))
    first, second = await run.end()
    assert (first.state, first.attempts, first.result) == (State.DONE, 1, b'"whole"')
    assert (second.state, second.attempts, second.stalls) == (State.WAITING, 0, 0)


@LOOPS
async def test_twice_and_it_goes_back_at_once(loop: str, tmp_path: Path) -> None:
    run = Run(tmp_path, loop)
    await run.begin(for_ever.call(), gate.call())
    run.interrupt()
    await run.until_given_back(1)  # it is heard; two at once would be one
    assert run.process.returncode is None, "it waits"
    await run.interrupt_until_over()
    rows = await run.end()
    assert [(row.state, row.attempts, row.stalls) for row in rows] == [(State.WAITING, 0, 0)] * 2
