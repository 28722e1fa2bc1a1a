"""Real processes that mint for one shard, and the one that does is killed again and again, on every engine."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Callable

import pytest

pytestmark = pytest.mark.processes

KILLS = 4

MINT = """
import asyncio, os, sys
from dougong.errors import Error
from dougong.shard import IdMinter, IdSettings
from dougong.store import open_store

async def main(url):
    store = await open_store(url)
    async with IdMinter(store, 17, holder="test", settings=IdSettings(ttl_s=0.5)) as ids:
        while True:
            try:
                run = await ids.take(5000)
            except Error:
                await asyncio.sleep(0.02)
                continue
            for some in run.ranges():
                os.write(1, b"%d %d %d\\n" % (ids.epoch, some[0], some[-1]))
            await asyncio.sleep(0.005)

asyncio.run(main(sys.argv[1]))
"""


async def test_kill_9_of_the_minter_repeats_no_id(fresh_url: Callable[[], str]) -> None:
    url = fresh_url()
    lines: asyncio.Queue[tuple[asyncio.subprocess.Process, list[int]]] = asyncio.Queue()
    readers: list[asyncio.Task[None]] = []
    children: list[asyncio.subprocess.Process] = []

    async def begin() -> None:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", MINT, url, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        assert child.stdout is not None
        children.append(child)
        readers.append(asyncio.create_task(read(child, child.stdout)))

    async def read(child: asyncio.subprocess.Process, out: asyncio.StreamReader) -> None:
        async for line in out:
            if line.endswith(b"\n"):
                lines.put_nowait((child, [int(number) for number in line.split()]))

    seen: list[list[int]] = []
    try:
        await begin()
        await begin()
        for kill in range(KILLS):
            while True:
                child, line = await lines.get()
                seen.append(line)
                if child.returncode is None and line[0] > kill and len(seen) % 20 == 0:
                    break
            child.kill()
            await child.wait()
            await begin()
        while seen[-1][0] <= KILLS:
            seen.append((await lines.get())[1])
    finally:
        for child in children:
            if child.returncode is None:
                child.kill()
            await child.wait()
        await asyncio.gather(*readers)
    while not lines.empty():
        seen.append(lines.get_nowait()[1])
    by_epoch = sorted(seen)
    assert by_epoch[-1][0] > KILLS
    for (_, _, last), (_, first, _) in itertools.pairwise(by_epoch):
        assert first > last, "ids of a shard rise, from each holder to the next"
