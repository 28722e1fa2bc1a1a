"""Several real processes on one file: started at once, killed, stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from dougong.registry import open_registry

WORKER = Path(__file__).with_name("worker.py")
PATIENCE_S = 60

pytestmark = pytest.mark.processes


class Process:
    def __init__(self, name: str, inner: asyncio.subprocess.Process) -> None:
        self.name = name
        self.inner = inner

    def go(self) -> None:
        assert self.inner.stdin is not None
        self.inner.stdin.write(b"go\n")

    def signal(self, number: int) -> None:
        self.inner.send_signal(number)

    async def says(self, *words: str) -> list[str]:
        """Read on until a line starts with these words; that line."""
        assert self.inner.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            while line := await self.inner.stdout.readline():
                said = line.decode().split()
                if said[: len(words)] == list(words):
                    return said
        raise AssertionError(f"{self.name} ended without saying {words}")


Start = Callable[..., Awaitable[Process]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    started: list[asyncio.subprocess.Process] = []

    async def start(role: str, url: str, name: str, *rest: str) -> Process:
        inner = await asyncio.create_subprocess_exec(
            sys.executable,
            str(WORKER),
            role,
            url,
            name,
            *rest,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        started.append(inner)
        return Process(name, inner)

    yield start
    for inner in started:
        if inner.returncode is None:
            inner.kill()
        assert inner.stdin is not None
        inner.stdin.close()
        await inner.communicate()


async def test_they_find_each_other_and_a_killed_one_vanishes(tmp_path: Path, start: Start) -> None:
    url = f"local://{tmp_path}/registry.db"
    names = [f"127.0.0.1:{port}" for port in range(1, 6)]
    processes = [await start("member", url, name, "2") for name in names]
    for process in processes:
        await process.says("ready")
    for process in processes:  # the file does not exist yet: all create it at the same instant
        process.go()
    for process in processes:
        await process.says("registered")

    victim, *survivors = processes
    await survivors[0].says("put", victim.name)
    victim.signal(signal.SIGKILL)
    vanished = [await process.says("delete", victim.name) for process in survivors]
    assert len({revision for _, _, revision in vanished}) == 1  # all saw one and the same event

    registry = await open_registry(url)
    async with asyncio.timeout(PATIENCE_S):
        while [i.key.rpartition("/")[2] for i in (await registry.list("/")).items] != names[1:]:
            await asyncio.sleep(0.05)  # a survivor that the machine held up for 2 s comes back by itself
    await registry.close()


async def test_a_stopped_one_vanishes_and_comes_back(tmp_path: Path, start: Start) -> None:
    url = f"local://{tmp_path}/registry.db"
    sleeper, watcher = [await start("member", url, name, "1") for name in ("127.0.0.1:1", "127.0.0.1:2")]
    for process in (sleeper, watcher):
        process.go()
        await process.says("registered")
    await watcher.says("put", sleeper.name)
    sleeper.go()  # which stops it
    await watcher.says("delete", sleeper.name)
    sleeper.signal(signal.SIGCONT)
    await watcher.says("put", sleeper.name)
    await sleeper.says("back")


async def test_killed_in_the_middle_of_writing_leaves_the_file_whole(tmp_path: Path, start: Start) -> None:
    path = tmp_path / "registry.db"
    url = f"local://{path}"
    registry = await open_registry(url)
    for round_ in range(3):
        writers = [await start("writer", url, f"{round_}-{number}") for number in range(3)]
        for process in writers:
            process.go()
            await process.says("registered")
        before = (await registry.list("/")).revision
        async with asyncio.timeout(PATIENCE_S):
            while (await registry.list("/")).revision < before + 100:
                await asyncio.sleep(0.01)
        for process in writers:
            process.signal(signal.SIGKILL)
            await process.inner.wait()
        revision = (await registry.list("/")).revision
        assert await registry.put("/mine", os.urandom(8)) == revision + 1
    await registry.close()
    db = sqlite3.connect(path)
    assert db.execute("pragma integrity_check").fetchone() == ("ok",)
    # Every revision is in the history, and what is listed is what the history says last.
    revision, compacted = db.execute("select revision, compacted from registry").fetchone()
    assert db.execute("select count(distinct revision) from history").fetchone() == (revision - compacted,)
    last = "select key, max(revision), kind from history group by key"
    assert compacted > 0 or db.execute(
        f"select count(*) from ({last}) h left join entry using (key) where (kind = 'put') <> (entry.key is not null)"
    ).fetchone() == (0,)
    db.close()
