"""`dougong shards`: where the buckets of a sharded store are, why a key is where it is, and whether all agree.

How they go elsewhere is in `moving`.
"""

from __future__ import annotations

import cyclopts
import msgspec
from rich.console import Console
from rich.table import Table

from dougong.cli import moving
from dougong.cli.opening import HERE, Where, opened
from dougong.cli.parameters import Json
from dougong.shard import verify

__all__ = ["shards"]

shards = cyclopts.App(name="shards", help="Look at the buckets of a sharded store, and move them.")
moving.add_to(shards)


@shards.command(name="map")
async def map_(*, where: Where = HERE, json: Json = False) -> None:
    """Which database has which buckets."""
    async with opened(where) as store:
        await store.refresh()
        places, version = store.map.places, store.map.version
        if json:
            buckets = [{"bucket": bucket, **msgspec.to_builtins(place)} for bucket, place in enumerate(places)]
            document = {"name": store.name, "routing": store.routing.name, "version": version, "buckets": buckets}
            print(msgspec.json.encode(document).decode())
            return
        table = Table("database", "buckets", "which", box=None)
        for shard in store.databases.names:
            having = sorted(store.owners.get(shard, ()))
            table.add_row(shard, str(len(having)), _ranges(having))
        console = Console()
        console.print(table)
        elsewhere = [f"{n} {p.state.value}" for n, p in enumerate(places) if p.state.value != "serving"]
        console.print(f"{store.name}: {store.routing.name} routing, map version {version}", style="dim")
        if elsewhere:
            console.print(f"not simply serving: {', '.join(elsewhere)}")


@shards.command
async def why(key: str, *, where: Where = HERE, json: Json = False) -> None:
    """Why a key's rows are where they are.

    Parameters
    ----------
    key
        The key; what stands before a colon is left out: user:123 is 123.
    """
    text = key.rpartition(":")[2]
    async with opened(where) as store:
        placement = await store.why(int(text) if text.isascii() and text.isdigit() else text)
    if json:
        print(msgspec.json.encode(placement).decode())
    else:
        Console().print(placement.why, highlight=False, markup=False, soft_wrap=True)


@shards.command(name="verify")
async def verify_(*, where: Where = HERE, json: Json = False) -> int:
    """Whether map and databases agree on who owns what. Exit code 1 when they do not."""
    async with opened(where) as store:
        wrong = await verify(store)
        databases = len(store.databases.names)
    if json:
        print(msgspec.json.encode({"databases": databases, "wrong": wrong}).decode())
    else:
        for line in wrong:
            Console().print(line, highlight=False, markup=False, soft_wrap=True)
        Console().print(f"{len(wrong)} disagreements" if wrong else f"map and {databases} databases agree")
    return int(bool(wrong))


def _ranges(buckets: list[int]) -> str:
    """0 1 2 4 → 0–2 4."""
    runs: list[list[int]] = []
    for bucket in buckets:
        if runs and runs[-1][1] == bucket - 1:
            runs[-1][1] = bucket
        else:
            runs.append([bucket, bucket])
    return " ".join(str(first) if first == last else f"{first}–{last}" for first, last in runs)
