"""Several processes on one file, and processes that die."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest

from dougong.store import Store, open_store

pytestmark = pytest.mark.processes

WRITER = """
import asyncio, os, sys
from dougong.store import open_store

async def main(url, tag, callers, per_caller):
    store = await open_store(url)
    os.write(1, b"ready\\n")
    sys.stdin.readline()

    async def caller(number):
        for turn in range(per_caller):
            key = (tag * 1000 + number) * 100_000 + turn
            async def unit(tx):
                await tx.execute("INSERT INTO things (id, amount) VALUES (?, ?)", (key, tag))
                await tx.execute("UPDATE things SET amount = amount + 1 WHERE id = 0")
            await store.write(unit)
            os.write(1, b"%d\\n" % key)  # acknowledged: from here on it must never be missing

    await asyncio.gather(*(caller(number) for number in range(callers)))
    await store.close()

asyncio.run(main(sys.argv[1], *map(int, sys.argv[2:])))
"""


HOLDER = """
import sqlite3, sys
from pathlib import Path
from dougong.store._turns import Turnstile

path = Path(sys.argv[1])
turnstile = Turnstile(path)
assert turnstile._enter()
connection = sqlite3.connect(path, isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


def start(store_path: Path, tag: int, callers: int, per_caller: int) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, f"sqlite:///{store_path}", str(tag), str(callers), str(per_caller)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def go(*processes: subprocess.Popen[bytes]) -> None:
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()


async def zero(store: Store) -> None:
    await store.write(lambda tx: tx.execute("INSERT INTO things (id, amount) VALUES (0, 0)"))


@pytest.mark.parametrize("callers", [1, 200])
async def test_every_acknowledged_unit_survives_a_kill(store: Store, tmp_path: Path, callers: int) -> None:
    await zero(store)
    path = tmp_path / "things.db"
    with start(path, 1, callers, 100_000) as process:
        go(process)
        assert process.stdout is not None
        acknowledged = [int(process.stdout.readline()) for _ in range(500)]
        process.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in process.stdout.read().splitlines(keepends=True) if line.endswith(b"\n")]
    # With all connections but ours gone, this is what a restart finds.
    await store.close()
    again = await open_store(f"sqlite:///{path}")
    present = {row[0] for row in await again.fetch_all("SELECT id FROM things WHERE id > 0")}
    assert set(acknowledged) <= present
    assert await again.fetch_one("SELECT amount FROM things WHERE id = 0") == (len(present),)  # no unit is half there
    await again.write(lambda tx: tx.execute("INSERT INTO things (id) VALUES (-1)"))
    await again.close()


async def test_processes_share_a_file_and_take_turns(store: Store, tmp_path: Path) -> None:
    await zero(store)
    processes = [start(tmp_path / "things.db", tag, 1, 150) for tag in (1, 2)]
    go(*processes)

    async def here() -> None:
        for key in range(100):
            await store.write(lambda tx, key=key: tx.execute("INSERT INTO things (id) VALUES (?)", (-1 - key,)))  # type: ignore[misc]

    await here()
    for process in processes:
        await asyncio.to_thread(process.communicate)
        assert process.returncode == 0
    assert await store.fetch_one("SELECT count(*) FROM things") == (401,)
    assert await store.fetch_one("SELECT amount FROM things WHERE id = 0") == (300,)


async def test_nobody_starves(store: Store, tmp_path: Path) -> None:
    """Two writers that never pause alternate. Without the turnstile one of them runs for hundreds of commits."""
    await zero(store)
    path = tmp_path / "things.db"
    order = sqlite3.connect(path)
    order.executescript(
        "CREATE TABLE log (at INTEGER PRIMARY KEY, tag INTEGER);"
        "CREATE TRIGGER logged AFTER INSERT ON things BEGIN INSERT INTO log (tag) VALUES (new.amount); END;"
    )
    processes = [start(path, tag, 1, 400) for tag in (1, 2)]
    go(*processes)
    for process in processes:
        await asyncio.to_thread(process.communicate)
    tags = [row[0] for row in order.execute("SELECT tag FROM log ORDER BY at")]
    order.close()
    both = tags[max(tags.index(1), tags.index(2)) : len(tags) - 1 - min(tags[::-1].index(1), tags[::-1].index(2))]
    runs = [len(list(run)) for _, run in groupby(both)]
    assert len(tags) == 800
    assert sum(runs) / len(runs) < 5


async def test_a_dead_process_holds_nothing(store: Store, tmp_path: Path) -> None:
    """Killed with the turnstile and the write lock in its hands."""
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            HOLDER,
            str(tmp_path / "things.db"),
        ],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    waiting = asyncio.create_task(zero(store))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    holder.kill()
    holder.communicate()
    await waiting
