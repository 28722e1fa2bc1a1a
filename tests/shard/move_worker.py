"""A process of the kill tests: a router that writes into one bucket and keeps a journal, or a mover of that bucket.

`python -m tests.shard.move_worker router LAYOUT JOURNAL NAME` or `... mover LAYOUT JOURNAL NAME`; both end by
themselves when the file `stop` beside the layout is there.
"""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path
from typing import cast

import uvloop

from dougong.errors import Error
from dougong.shard import Mover, MoveSettings, ShardedStore, ShardedTable, load_layout, open_sharded_store
from dougong.shard.moving.record import Phase
from dougong.store import Migration, Tx

BUCKET = 17
KEYS = tuple(BUCKET + 128 * n for n in range(10))
SHARDS = ("db-0", "db-1")
STAY = 100
"""Writes for which a guest stays: so long that moves copy it, and delete it again."""
TABLES = (ShardedTable("counters"), ShardedTable("raised", "counter"), ShardedTable("padding"), ShardedTable("guests"))
SCHEMA = [
    Migration(
        1,
        "counters",
        "CREATE TABLE counters (id BIGINT NOT NULL PRIMARY KEY, raised BIGINT NOT NULL);"
        "CREATE TABLE raised (counter BIGINT NOT NULL, op VARCHAR(40) NOT NULL, number BIGINT NOT NULL,"
        " PRIMARY KEY (counter, op));"
        "CREATE TABLE padding (id BIGINT NOT NULL PRIMARY KEY, text VARCHAR(200) NOT NULL);"
        "CREATE TABLE guests (id BIGINT NOT NULL PRIMARY KEY, op VARCHAR(40) NOT NULL)",
    )
]


def guest_of(op: str) -> int:
    """The id of the guest who comes with a write, `NAME-NUMBER`; of those of this router the one `STAY` before goes."""
    name, number = op.rsplit("-", 1)
    return (int(number) * 8 + int(name[-1])) * 128 + BUCKET


async def patiently_opened(layout: Path, *, watch: bool) -> ShardedStore:
    """As soon as all that is needed for it is there."""
    while True:
        try:
            return await open_sharded_store(load_layout(layout), create=False, watch=watch)
        except Error:
            await asyncio.sleep(0.1)


async def route(layout: Path, journal: Path, name: str) -> None:
    """Raise counters, each under a name of its own that makes a repeat harmless; write down what was acknowledged.

    With each a guest comes, and an earlier one goes.
    """
    lines = journal.read_text().splitlines() if journal.exists() else []
    begun = [line.split() for line in lines if line.startswith("begin ")]
    acknowledged = {line.split()[1] for line in lines if line.startswith("ok ") and line.endswith(".")}
    count = len(begun)
    store = await patiently_opened(layout, watch=True)
    with journal.open("a", buffering=1) as out:
        if lines:
            out.write("\n")  # the last line may be half
        for _, op, text in [entry for entry in begun if len(entry) == 3]:
            if op not in acknowledged:
                await raise_once(store, out.write, op, int(text))
        while not (layout.parent / "stop").exists():
            count += 1
            op, key = f"{name}-{count}", random.choice(KEYS)
            out.write(f"begin {op} {key}\n")
            await raise_once(store, out.write, op, key)
    await store.close()


async def raise_once(store: ShardedStore, write: object, op: str, key: int) -> None:
    async def unit(tx: Tx) -> int:
        done = await tx.fetch_one("SELECT number FROM raised WHERE counter = ? AND op = ?", (key, op))
        if done is not None:
            return cast(int, done[0])
        row = await tx.fetch_one("SELECT raised FROM counters WHERE id = ?", (key,))
        number = cast(int, row[0]) + 1 if row is not None else 1
        if row is None:
            await tx.execute("INSERT INTO counters VALUES (?, 1)", (key,))
        else:
            await tx.execute("UPDATE counters SET raised = ? WHERE id = ?", (number, key))
        await tx.execute("INSERT INTO raised VALUES (?, ?, ?)", (key, op, number))
        await tx.execute("INSERT INTO guests VALUES (?, ?)", (guest_of(op), op))
        await tx.execute("DELETE FROM guests WHERE id = ?", (guest_of(op) - STAY * 8 * 128,))
        return number

    while True:
        try:
            number = await store.store_of(key).write(unit)
        except Error:
            await asyncio.sleep(0.02)
        else:
            write(f"ok {op} {key} {number} .\n")  # type: ignore[operator]
            return


async def move(layout: Path, journal: Path, name: str) -> None:
    """To and fro, in every way there is; to the end when it is time to stop."""
    store = await patiently_opened(layout, watch=False)
    mover = Mover(store, name=name, settings=MoveSettings(share=1.0, patience_s=5.0, routers_s=12.0))
    stop = layout.parent / "stop"
    first = True
    while True:
        try:
            record = await store.moves.get(BUCKET)
            with journal.open("a") as out:
                if first and record is not None and record.running:
                    out.write(f"takes over, {record}\n")
                out.write(f"at work, {record}\n")
            first = False
            if record is None or record.phase is Phase.DONE:
                await store.refresh()
                if stop.exists() and store.map.places[BUCKET].epoch > 1:  # it was somewhere else
                    break
                await mover.move(BUCKET, next(shard for shard in SHARDS if shard != store.map.places[BUCKET].shard))
            elif record.phase is Phase.REVERSIBLE:
                await random.choice((mover.complete, mover.reverse))(BUCKET)
            elif record.phase is Phase.COPYING and random.random() < 0.2:
                await mover.cancel(BUCKET)
            else:
                await mover.resume(BUCKET)
        except Error as error:
            sys.stderr.write(f"{name}: {error}\n")
            await asyncio.sleep(0.05)
    await store.close()


if __name__ == "__main__":
    role, layout_, second, name_ = sys.argv[1:]
    work = route if role == "router" else move
    uvloop.run(work(Path(layout_), Path(second), name_))
