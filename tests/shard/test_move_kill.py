"""kill -9 of mover, routers, both databases and the one of the map, while a bucket moves to and fro and is written.

`DOUGONG_MOVE_KILLS=50` kills more often than the default; `-o log_cli=true --log-cli-level=INFO` says what came of it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import cast

import pytest
from tests.engines import make_server
from tests.shard.move_worker import BUCKET, KEYS, SCHEMA, SHARDS, STAY, TABLES, guest_of

from dougong.evidence.engines import Server
from dougong.shard import Mover, MoveSettings, ShardedStore, load_layout, open_sharded_store, verify
from dougong.shard.moving.shapes import triggers_of
from dougong.store import Row, Store, Tx

pytestmark = pytest.mark.processes

ROUTERS = ("router-1", "router-2")
PADDING = 2000
"""Rows that have to be copied, too."""
SETTINGS = MoveSettings(share=1.0)


class Processes:
    """Routers and a mover, started again when they are killed."""

    def __init__(self, layout: Path) -> None:
        self._layout = layout
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._sizes: dict[str, int] = {}
        for name in (*ROUTERS, "mover"):
            self.start(name)

    def journal(self, name: str) -> Path:
        return self._layout.parent / f"{name}.journal"

    def start(self, name: str) -> None:
        self._sizes[name] = self.journal(name).stat().st_size if self.journal(name).exists() else 0
        role = "mover" if name == "mover" else "router"
        with (self._layout.parent / f"{name}.log").open("ab") as log:
            self._children[name] = subprocess.Popen(
                [sys.executable, "-m", "tests.shard.move_worker", role, self._layout, self.journal(name), name],
                stdin=subprocess.DEVNULL,
                stderr=log,
            )

    async def at_work(self, name: str) -> None:
        """Until it has written into its journal since it was started."""
        size = self._sizes[name]
        await _until(lambda: self.journal(name).exists() and self.journal(name).stat().st_size > size)

    def kill(self, name: str) -> None:
        self._children[name].kill()
        self._children[name].wait()

    def wait(self, name: str) -> None:
        """Until it has ended by itself, as it should."""
        assert self._children[name].wait(timeout=120) == 0, (self._layout.parent / f"{name}.log").read_text()[-3000:]

    def stop(self) -> None:
        for name in self._children:
            self.kill(name)


@pytest.mark.parametrize(
    ("dialect", "kills"),
    [
        pytest.param("sqlite", 12, marks=pytest.mark.xdist_group("kill-sqlite")),
        pytest.param("mysql", 12, marks=pytest.mark.xdist_group("kill-mysql")),
    ],
)
async def test_no_kill_loses_or_doubles_a_write(dialect: str, kills: int, tmp_path: Path) -> None:
    kills = int(os.environ.get("DOUGONG_MOVE_KILLS", kills))
    seed = random.SystemRandom().randrange(1 << 32)
    draw = random.Random(seed)
    killed: dict[str, int] = {}
    with _databases(dialect, tmp_path) as (layout, servers):
        await _prepare(layout)
        processes = Processes(layout)
        try:
            await _until(lambda: all(_acknowledged(processes.journal(name)) for name in ROUTERS))
            for victim in _victims(draw, kills, servers):
                await processes.at_work("mover")
                await asyncio.sleep(draw.uniform(0.0, 0.5))
                killed[victim] = killed.get(victim, 0) + 1
                if victim in ("source", "target", "map"):
                    server = servers[_database(victim, servers["map"], layout)]
                    server.kill()
                    server.start()
                    continue
                processes.kill(victim)
                await asyncio.sleep(draw.choice((0.0, 0.0, 0.3)))
                processes.start(victim)
            await asyncio.sleep(1.0)
            (layout.parent / "stop").touch()
            for name in (*ROUTERS, "mover"):
                await asyncio.to_thread(processes.wait, name)
        finally:
            processes.stop()
        store = await open_sharded_store(load_layout(layout), create=False)
        try:
            journals = [_acknowledged(processes.journal(name)) for name in ROUTERS]
            record = await store.moves.get(BUCKET)
            assert record is not None
            takeovers = processes.journal("mover").read_text().count("takes over, ")
            switches = store.map.places[BUCKET].epoch - 1
            logging.getLogger(__name__).info(
                "%s, seed %s: killed %s; %s moves, %s switches, %s takeovers, %s acknowledged writes",
                dialect, seed, killed, record.number, switches, takeovers, sum(map(len, journals)),
            )  # fmt: skip
            assert switches >= 1
            assert takeovers >= 1, "in one of so many kills a move was under way"
            await _agree(store, journals, [_begun(processes.journal(name)) for name in ROUTERS])
            await _there_and_back(store)
        finally:
            await store.close()


def _victims(draw: random.Random, kills: int, servers: dict[str, Server]) -> list[str]:
    """Each at least once where there are enough, movers more often."""
    always = ["mover"] * 4 + [*ROUTERS] + (["source", "target", "map"] if servers else [])
    more = draw.choices(always, k=max(0, kills - len(always)))
    return draw.sample(always + more, k=kills)


def _database(victim: str, metadata: Server, layout: Path) -> str:
    """Of the role it has at this moment: the source is who owns the bucket."""
    if victim == "map":
        return victim
    database = load_layout(layout).metadata.partition("?")[0].rpartition("/")[2]
    owner = metadata.sql(f"SELECT shard FROM {database}.dougong_buckets WHERE bucket = {BUCKET}").split()[-1]
    return owner if victim == "source" else next(shard for shard in SHARDS if shard != owner)


@contextmanager
def _databases(dialect: str, folder: Path) -> Generator[tuple[Path, dict[str, Server]]]:
    """A layout file; on a server every database has one of its own, so that one can be killed alone."""
    layout, servers = folder / "layout.toml", dict[str, Server]()
    with ExitStack() as stack:
        urls = {name: f"sqlite:///{folder}/{name}.db" for name in ("map", *SHARDS)}
        if dialect != "sqlite":
            for name in urls:
                servers[name] = make_server(dialect)
                stack.callback(servers[name].remove)
                urls[name] = stack.enter_context(servers[name].database())
        listed = "".join(f'{name} = "{urls[name]}"\n' for name in SHARDS)
        layout.write_text(f'name = "users"\nmetadata = "{urls["map"]}"\n[databases]\n{listed}')
        yield layout, servers


async def _prepare(layout: Path) -> None:
    store = await open_sharded_store(load_layout(layout))
    await store.migrate("tests", SCHEMA)
    await store.declare(*TABLES)

    async def pad(tx: Tx) -> None:
        rows = [(BUCKET + 128 * n, "x" * 100) for n in range(PADDING)]
        await tx.execute_many("INSERT INTO padding VALUES (?, ?)", rows)

    await store.store_at(BUCKET).write(pad)
    await store.close()


async def _until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(120):
        while not condition():
            await asyncio.sleep(0.1)


def _lines(journal: Path, first: str, words: int) -> list[list[str]]:
    split = [line.split() for line in journal.read_text().splitlines()] if journal.exists() else []
    return [line for line in split if line[:1] == [first] and len(line) == words]


def _acknowledged(journal: Path) -> dict[tuple[int, str], int]:
    """(counter, name of the write) → the number it was told."""
    return {(int(key), op): int(number) for _, op, key, number, end in _lines(journal, "ok", 5) if end == "."}


def _begun(journal: Path) -> set[tuple[int, str]]:
    return {(int(key), op) for _, op, key in _lines(journal, "begin", 3)}


async def _agree(
    store: ShardedStore, journals: list[dict[tuple[int, str], int]], begun: list[set[tuple[int, str]]]
) -> None:
    """What was acknowledged is there once, with the number that was told, and nothing that nobody wrote."""
    assert await verify(store) == []
    rows = await store.store_at(BUCKET).fetch_all("SELECT counter, op, number FROM raised")
    there = {(cast(int, counter), cast(str, op)): cast(int, number) for counter, op, number in rows}
    for journal, tried in zip(journals, begun, strict=True):
        assert journal.items() <= there.items()
        assert tried == journal.keys(), "a write that was begun and not acknowledged was tried again until it was"
    assert there.keys() == set().union(*begun)
    rows = await store.store_at(BUCKET).fetch_all("SELECT id, raised FROM counters")
    counters = dict(cast("list[tuple[int, int]]", rows))
    for key in KEYS:
        numbers = sorted(number for (counter, _), number in there.items() if counter == key)
        assert numbers == list(range(1, counters.get(key, 0) + 1))
    guests = await store.store_at(BUCKET).fetch_all("SELECT id FROM guests ORDER BY id")
    assert [row[0] for row in guests] == sorted(guest for tried in begun for guest in _staying(tried))
    (padding,) = await store.store_at(BUCKET).fetch_all("SELECT count(*) FROM padding")
    assert padding == (PADDING,)
    owner = store.map.places[BUCKET].shard
    for shard in SHARDS:
        held = await _held(store, shard)
        assert (held == [[], [], [], []]) == (shard != owner)


def _staying(begun: set[tuple[int, str]]) -> list[int]:
    """Guests of one router that came last: each of its writes brought one, and sent one away."""
    return sorted(guest_of(op) for _, op in begun)[-STAY:]


async def _held(store: ShardedStore, shard: str) -> list[list[Row]]:
    async def read(opened: Store) -> list[list[Row]]:
        return [
            await opened.fetch_all("SELECT * FROM counters ORDER BY id"),
            await opened.fetch_all("SELECT * FROM raised ORDER BY counter, op"),
            await opened.fetch_all("SELECT * FROM padding ORDER BY id"),
            await opened.fetch_all("SELECT * FROM guests ORDER BY id"),
        ]

    return await store.databases.call(shard, read)


async def _triggers(store: ShardedStore, shard: str) -> int:
    """Of all tables that move."""
    found = [await store.databases.call(shard, partial(triggers_of, table=table.name)) for table in TABLES]
    return sum(map(len, found))


async def _there_and_back(store: ShardedStore) -> None:
    """Both copies are alike while it can come back; cancelled and reversed moves leave the source serving."""
    mover = Mover(store, settings=SETTINGS)
    source = store.map.places[BUCKET].shard
    target = next(shard for shard in SHARDS if shard != source)
    await store.moves.begin(BUCKET, target, "nobody")
    assert (await mover.cancel(BUCKET)).outcome == "cancelled"
    assert (await store.why(BUCKET)).shard == source
    before = await _held(store, source)
    await mover.move(BUCKET, target)
    assert await _held(store, source) == await _held(store, target) == before
    assert (await mover.reverse(BUCKET)).source == source
    assert (await mover.complete(BUCKET)).outcome == "reversed"
    assert [await _triggers(store, shard) for shard in SHARDS] == [0, 0]
    assert await store.store_at(BUCKET).write(lambda tx: tx.execute("DELETE FROM padding")) == PADDING
    assert await verify(store) == []
