"""The claim about sharding: what a route costs, what a question to all databases costs, what growing moves."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from typing import cast

import psutil

from dougong.evidence import Claim, Figures, Ratio, Setting, Threshold
from dougong.shard import (
    BUCKETS,
    BucketMap,
    ConsistentHashRouting,
    Key,
    MappingRouting,
    ModuloRouting,
    Query,
    Routing,
    ShardedStore,
    ShardedTable,
    ask,
    embedded_layout,
    open_sharded_store,
)
from dougong.store import Migration, Tx, open_store

__all__ = ["ShardingExperiment", "sharding"]

DATABASES = 4
_SCHEMA = [
    Migration(
        1,
        "users",
        "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL, balance INTEGER NOT NULL);"
        "CREATE INDEX users_name ON users (name, id)",
    )
]
PAGE = Query(table=ShardedTable("users"), select=("id", "name", "balance"), order=("name",), limit=50)


class ShardingExperiment:
    """Baseline: one database with as many rows as one of ours, and keys routed by the number of databases."""

    def __init__(self, one: ShardedStore, four: ShardedStore, routings: Sequence[Routing], *, rounds: int, mb: float):
        self._one = one
        self._four = four
        self._routings = routings
        self._rounds = rounds
        self._mb = mb
        self._problems: list[str] = []

    async def baseline(self, pair: int) -> Figures:
        name = self._one.databases.names[0]
        sql = "SELECT id, name, balance FROM users ORDER BY name, id LIMIT 51"
        figures = {
            "page_us": await self._page_us(self._one, pair),
            "bare_statement_us": await self._median_us(
                lambda _: self._one.databases.call(name, lambda store: store.fetch_all(sql))
            ),
        }
        for databases in (5, 8):  # each row where `key % databases` says: nothing between keys and databases
            moved = sum(key % DATABASES != key % databases for key in range(DATABASES * 5 * 8))
            figures[f"moved_{databases}"] = moved / (DATABASES * 5 * 8)
        return figures

    async def ours(self, pair: int) -> Figures:
        figures = {"page_us": await self._page_us(self._four, pair), "open_128_mb": self._mb}
        rows = dict.fromkeys(range(BUCKETS), 1)
        for routing in self._routings:
            name = routing.name.replace("-", "_")
            figures[f"{name}_route_us"] = self._route_us(routing)
            before = BucketMap.of(routing.spread(_names(DATABASES)))
            where = [place.shard for place in before.places]
            if isinstance(routing, MappingRouting):
                rows = await routing.counts()
            for databases in (5, 8):
                spread = routing.spread(_names(databases), where)
                figures[f"{name}_moved_{databases}"] = before.share_moved(spread, rows)
        return figures

    async def verify(self) -> Sequence[str]:
        """The pages are those of one database: every row once, in order, through all pages."""
        query = Query(table=PAGE.table, select=PAGE.select, order=PAGE.order, limit=1000)
        last: tuple[str, int] | None = None
        after: str | None = None
        seen = 0
        while True:
            answer = await ask(self._four, query, scatter=True, after=after)
            for id_, name, _ in cast("list[tuple[int, str, int]]", answer.rows):
                here = (name, id_)
                if last is not None and here <= last:
                    self._problems.append(f"{here} came after {last}")
                last = here
                seen += 1
            after = answer.after
            if after is None:
                break
        total = (await ask(self._four, Query(table=PAGE.table, select=("count(*)",)), scatter=True)).rows[0][0]
        assert isinstance(total, int), "count(*) is a number"
        if seen != total:
            self._problems.append(f"{seen} rows in all pages, but {total} are there")
        return self._problems

    async def _page_us(self, store: ShardedStore, pair: int) -> float:
        names = Random(pair)

        async def one(_: int) -> object:
            where = (("name", ">=", f"name-{names.randrange(900_000):06}"),)
            return await ask(
                store, Query(table=PAGE.table, select=PAGE.select, where=where, order=PAGE.order), scatter=True
            )

        return await self._median_us(one)

    async def _median_us(self, call: Callable[[int], Awaitable[object]]) -> float:
        times: list[float] = []
        for number in range(self._rounds):
            began = time.perf_counter()
            await call(number)
            times.append(time.perf_counter() - began)
            await asyncio.sleep(0)
        return statistics.median(times) * 1e6

    def _route_us(self, routing: Routing) -> float:
        """From a key to the name of its database; of several rounds the median, in processor time."""
        places = self._four.map.places
        keys: list[Key] = list(range(20_000))
        times: list[float] = []
        for _ in range(7):
            began = time.process_time()
            for key in keys:
                bucket = routing.bucket(key)
                assert bucket is not None, "every key was placed beforehand"
                places[bucket].shard  # noqa: B018 (what is measured)
            times.append((time.process_time() - began) / len(keys))
        return statistics.median(times) * 1e6


def _names(count: int) -> list[str]:
    return [f"db-{number}" for number in range(count)]


async def _filled(store: ShardedStore, rows: int, buckets: range) -> ShardedStore:
    """Users with random names, in these buckets only."""
    await store.migrate("users", _SCHEMA)
    names = Random(7)
    for bucket in buckets:
        users = [
            (bucket + BUCKETS * number, f"name-{names.randrange(1_000_000):06}", 100)
            for number in range(rows // len(buckets))
        ]

        async def unit(tx: Tx, users: list[tuple[int, str, int]] = users) -> None:
            await tx.execute_many("INSERT INTO users VALUES (?, ?, ?)", users)

        await store.store_at(bucket).write(unit)
    return store


async def _memory_mb(folder: Path) -> float:
    """What 128 open databases add to this process, each migrated, written to and read once."""
    process = psutil.Process()
    before = process.memory_info().rss
    store = await open_sharded_store(embedded_layout(folder, "many", databases=BUCKETS))
    try:
        await _filled(store, BUCKETS * 10, range(BUCKETS))
        await ask(store, PAGE, scatter=True)
        return (process.memory_info().rss - before) / 1e6
    finally:
        await store.close()


@asynccontextmanager
async def _experiment(setting: Setting) -> AsyncGenerator[ShardingExperiment]:
    folder = setting.workdir
    rows = 40_000 if setting.quick else 400_000
    async with AsyncExitStack() as stack:
        setting.say("opening 128 databases")
        megabytes = await _memory_mb(folder)
        setting.say(f"writing {rows:,} users")
        four = await open_sharded_store(embedded_layout(folder, "four", databases=DATABASES))
        stack.push_async_callback(four.close)
        one = await open_sharded_store(embedded_layout(folder, "one", databases=1))
        stack.push_async_callback(one.close)
        await _filled(four, rows, range(BUCKETS))
        await _filled(one, rows // DATABASES, range(0, BUCKETS, DATABASES))
        placed = await open_store(f"sqlite:///{folder}/placed.db")
        stack.push_async_callback(placed.close)
        mapping = MappingRouting(placed, spare=BUCKETS // 2)
        await mapping.start()
        for start in range(0, 20_000, 500):
            await asyncio.gather(*(mapping.find(key) for key in range(start, start + 500)))
        routings: list[Routing] = [ModuloRouting(), ConsistentHashRouting(), mapping]
        yield ShardingExperiment(one, four, routings, rounds=100 if setting.quick else 400, mb=megabytes)
    for file in folder.glob("*.db*"):
        file.unlink()


sharding = Claim(
    name="sharding",
    title="Routing costs a microsecond, a page from all databases less than three from one",
    situation=(
        "Users no longer fit one database. Keys routed by the number of databases move nearly everywhere when that"
        " number changes, and questions about all users have nobody to answer them."
    ),
    task="Spread keys over databases so that growing moves few, and answer a page of all of them at the price of few.",
    action=(
        "128 frozen buckets between keys and databases, three ways to lay them out, and questions that are pushed down,"
        " checked against the bucket map where the rows are, and merged."
    ),
    result=(
        "a page of 50 of 128 buckets in {ours[page_us]:,.0f} µs, {ratio[page_us]:.1f} × the same page of one of its"
        " four databases; a route takes {ours[modulo_route_us]:.2f} µs by modulo, by hash"
        " {ours[consistent_hash_route_us]:.2f} µs"
    ),
    table=(
        "| rows that move | 4 → 5 databases | 4 → 8 databases | a route |\n| --- | --- | --- | --- |\n"
        "| `key % databases`, no buckets | {baseline[moved_5]:.0%} | {baseline[moved_8]:.0%} | |\n"
        "| modulo | {ours[modulo_moved_5]:.0%} | {ours[modulo_moved_8]:.0%} | {ours[modulo_route_us]:.2f} µs |\n"
        "| consistent hash, bounded load | {ours[consistent_hash_moved_5]:.0%} | {ours[consistent_hash_moved_8]:.0%} |"
        " {ours[consistent_hash_route_us]:.2f} µs |\n"
        "| mapping, half of the buckets spare | {ours[mapping_moved_5]:.0%} | {ours[mapping_moved_8]:.0%} |"
        " {ours[mapping_route_us]:.2f} µs |\n\n"
        "The bare statement on one database, without check, merge and cursor: {baseline[bare_statement_us]:,.0f} µs."
        " 128 open SQLite databases: {ours[open_128_mb]:.0f} MB."
    ),
    experiment=_experiment,
    ratios={"page_us": Ratio("page_us", "page_us")},
    thresholds=(
        Threshold("ratio.page_us", at_most=3),
        Threshold("ours.modulo_route_us", at_most=1),
        Threshold("ours.consistent_hash_route_us", at_most=1),
        Threshold("ours.mapping_route_us", at_most=1),
        Threshold("ours.consistent_hash_moved_5", at_most=0.25),
        Threshold("ours.mapping_moved_8", at_most=0),
        Threshold("ours.open_128_mb", at_most=150),
    ),
)
