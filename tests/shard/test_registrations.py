"""Ten thousand registrations from two processes, a few addresses: each goes to one of them, on every engine."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter

import msgspec
import pytest
from tests.shard.conftest import Open

from dougong.shard import BUCKETS, Layout, ShardedTable, UniqueIndex

pytestmark = pytest.mark.processes

REGISTRATIONS = int(os.environ.get("DOUGONG_REGISTRATIONS", "10000"))
PROCESSES = 2
FOR_EACH_ADDRESS = 4
AT_ONCE = 1000
"""Callers in each process."""

REGISTER = """
import asyncio, random, sys
from collections import Counter
import msgspec
from dougong.errors import Error
from dougong.shard import Layout, ShardedTable, UniqueIndex, open_sharded_store

async def main(layout, ids, addresses):
    sharded = await open_sharded_store(layout)
    index = UniqueIndex(sharded, "email", ShardedTable("users", bucket="bucket"), "email")
    await index.start(new=True)
    told, won = Counter(), []

    async def register(id_):
        email = f"{id_ // PROCESSES % addresses}@example.org"
        bucket = await sharded.bucket_of(id_)

        async def unit(tx):
            await tx.execute("INSERT INTO users VALUES (?, 'x', 1, ?, ?)", (id_, email, bucket))

        try:
            if CLAIMS:
                await index.write(id_, email, unit)
            else:
                await sharded.store_of(id_).write(unit)
        except Error as error:
            told[f"{type(error).__name__} {error.code}"] += 1
        else:
            won.append((email, id_))

    async def caller(waiting):
        for id_ in waiting:
            await register(id_)

    waiting = iter(random.sample(ids, len(ids)))  # all addresses are wanted by both processes all the time
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(caller(waiting))
    await sharded.close()
    print(msgspec.json.encode({"told": told, "won": won}).decode(), flush=True)

CLAIMS, PROCESSES, AT_ONCE, of, count, addresses = map(int, sys.argv[2:])
asyncio.run(main(msgspec.json.decode(sys.argv[1], type=Layout), range(of, count, PROCESSES), addresses))
"""


class Report(msgspec.Struct):
    told: dict[str, int]
    """Error → how many heard it."""
    won: list[tuple[str, int]]
    """(address, id) of those who were told that it is theirs."""


async def registered(layout: Layout, count: int, addresses: int, *, claims: bool = True) -> list[Report]:
    """What each of the processes reports; they start together. `claims`: whether they ask the index."""
    encoded = msgspec.json.encode(layout).decode()
    children = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", REGISTER, encoded),
            *(str(number) for number in (int(claims), PROCESSES, AT_ONCE, of, count, addresses)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for of in range(PROCESSES)
    ]
    try:
        for child in children:
            assert child.stdout is not None
            assert await child.stdout.readline() == b"ready\n"
        outputs = await asyncio.gather(*(child.communicate(b"go\n") for child in children))
    finally:
        for child in children:
            if child.returncode is None:
                child.kill()
                await child.wait()
    return [msgspec.json.decode(out, type=Report) for out, _ in outputs]


async def test_each_address_goes_to_one_and_all_others_are_told(layout: Layout, routers: Open) -> None:
    sharded = await routers(layout)
    index = UniqueIndex(sharded, "email", ShardedTable("users", bucket="bucket"), "email")
    await index.start(new=True)
    addresses = REGISTRATIONS // FOR_EACH_ADDRESS
    reports = await registered(layout, REGISTRATIONS, addresses)

    won = sorted(pair for report in reports for pair in report.won)
    told = sum((Counter(report.told) for report in reports), Counter[str]())
    assert len({email for email, _ in won}) == len(won) == addresses
    assert told == {"Conflict unique_violated": REGISTRATIONS - addresses}
    assert all(report.won for report in reports), "one process won everything: they did not race"

    kept: list[tuple[object, ...]] = []
    for bucket in range(BUCKETS):
        kept += await sharded.store_at(bucket).fetch_all("SELECT email, id FROM users WHERE bucket = ?", (bucket,))
    assert sorted(map(tuple, kept)) == won

    await index.sweep(older_than_s=0.0)
    swept = await index.sweep(older_than_s=0.0)
    assert (swept.entries, swept.orphans) == (addresses, 0)
    for email, id_ in won[:: addresses // 50 or 1]:
        assert await index.find(email) == id_


async def test_ablation_without_the_index_many_get_one_address(layout: Layout, routers: Open) -> None:
    sharded = await routers(layout)
    index = UniqueIndex(sharded, "email", ShardedTable("users", bucket="bucket"), "email")
    await index.start(new=True)
    reports = await registered(layout, 200, 50, claims=False)
    assert [len(report.won) for report in reports] == [100, 100]
    assert len({email for report in reports for email, _ in report.won}) == 50
