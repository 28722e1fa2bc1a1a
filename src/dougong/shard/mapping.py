"""A row for each key says where it is: the strategy for keys that somebody wants to place.

Big tenants get buckets of their own, and buckets kept in reserve go to new databases empty, so that growing moves
nothing. It costs a lookup for each key that is not remembered, and a metadata database that has to be there for it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from typing import cast

from dougong.errors import Conflict, Invalid, NotFound
from dougong.shard.buckets import BUCKETS, Key
from dougong.shard.routing import check_shards
from dougong.store import Migration, Store, Tx

__all__ = ["MappingRouting"]

_TABLES = """
CREATE TABLE dougong_placed_keys (key_text {text} NOT NULL PRIMARY KEY, bucket SMALLINT NOT NULL);
CREATE TABLE dougong_placed_counts (bucket SMALLINT NOT NULL PRIMARY KEY, placed BIGINT NOT NULL);
"""
_SCHEMA = [
    Migration(
        1,
        "placed_keys",
        _TABLES.format(text="VARCHAR(255)"),
        {"mysql": _TABLES.format(text="VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")},
    )
]
_PLACED = "SELECT bucket FROM dougong_placed_keys WHERE key_text = ?"
_COUNTS = "SELECT bucket, placed FROM dougong_placed_counts"


class MappingRouting:
    """New keys go to the bucket with the fewest. A key that has rows is never placed elsewhere, so what was looked up
    once is remembered, up to `remembered_max` keys.

    The last `spare` buckets take no keys by themselves: they are what a later, larger system fills.
    """

    name = "mapping"

    def __init__(self, metadata: Store, *, spare: int = 0, remembered_max: int = 100_000) -> None:
        if not 0 <= spare < BUCKETS:
            raise Invalid(f"{spare} spare buckets of {BUCKETS} leave none to fill", code="bad_spare")
        self._metadata = metadata
        self._filled = BUCKETS - spare
        self._remembered: OrderedDict[str, int] = OrderedDict()
        self._remembered_max = remembered_max
        self._placed: Mapping[int, int] = {}

    async def start(self) -> None:
        """Create the tables when they are missing, and count."""
        await self._metadata.migrate("dougong.shard.mapping", _SCHEMA)
        await self.counts()

    def bucket(self, key: Key) -> int | None:
        return self._remembered.get(str(key))

    async def find(self, key: Key, *, new: bool = True) -> int:
        text = str(key)
        row = await self._metadata.fetch_one(_PLACED, (text,))
        if row is None and not new:
            raise NotFound(f"key {key!r} was never placed, so it has no rows", code="unplaced_key")
        return self._remember(text, cast(int, row[0]) if row is not None else await self._place(text, None))

    async def place(self, key: Key, bucket: int) -> None:
        """Put a new key into this bucket; `Conflict` (code `key_placed`) when it is in another already."""
        if not 0 <= bucket < BUCKETS:
            raise Invalid(f"there is no bucket {bucket}; there are 0 to {BUCKETS - 1}", code="bad_bucket")
        found = self._remember(str(key), await self._place(str(key), bucket))
        if found != bucket:
            raise Conflict(f"key {key!r} is in bucket {found}, where its rows are", code="key_placed", bucket=found)

    async def counts(self) -> dict[int, int]:
        """Bucket → how many keys were placed there."""
        rows = await self._metadata.fetch_all(_COUNTS)
        self._placed = dict(cast("list[tuple[int, int]]", rows))
        return dict(self._placed)

    def spread(self, shards: Sequence[str], before: Sequence[str] = ()) -> tuple[str, ...]:
        """Equal numbers of buckets. Who has too many gives those with the fewest keys (as of the last `counts`)."""
        check_shards(shards)
        quota = {shard: BUCKETS // len(shards) + (at < BUCKETS % len(shards)) for at, shard in enumerate(shards)}
        owners: list[str | None] = [None] * BUCKETS
        held: Counter[str] = Counter()
        for bucket in sorted(range(BUCKETS), key=lambda bucket: (-self._placed.get(bucket, 0), bucket)):
            owner = before[bucket] if before else ""
            if held[owner] < quota.get(owner, 0):
                owners[bucket] = owner
                held[owner] += 1
        free = [shard for shard in shards for _ in range(quota[shard] - held[shard])]
        turns = iter(_interleaved(free))
        return tuple(owner if owner is not None else next(turns) for owner in owners)

    def why(self, key: Key, bucket: int) -> str:
        return f"the metadata database places {key!r} in bucket {bucket}"

    async def _place(self, text: str, wanted: int | None) -> int:
        filled = self._filled

        async def unit(tx: Tx) -> int:
            row = await tx.fetch_one(_PLACED, (text,))
            if row is not None:  # somebody was faster
                return cast(int, row[0])
            bucket = wanted
            if bucket is None:
                counts = dict(cast("list[tuple[int, int]]", await tx.fetch_all(_COUNTS)))
                bucket = min(range(filled), key=lambda bucket: counts.get(bucket, 0))
            await tx.execute("INSERT INTO dougong_placed_keys (key_text, bucket) VALUES (?, ?)", (text, bucket))
            if not await tx.execute("UPDATE dougong_placed_counts SET placed = placed + 1 WHERE bucket = ?", (bucket,)):
                await tx.execute("INSERT INTO dougong_placed_counts (bucket, placed) VALUES (?, 1)", (bucket,))
            return bucket

        return await self._metadata.write(unit)

    def _remember(self, text: str, bucket: int) -> int:
        self._remembered[text] = bucket
        while len(self._remembered) > self._remembered_max:
            self._remembered.popitem(last=False)
        return bucket


def _interleaved(shards: Sequence[str]) -> list[str]:
    """a a b b → a b a b: neighbouring buckets fall on different databases."""
    seen: Counter[str] = Counter()
    turns: list[tuple[int, str]] = []
    for shard in shards:
        turns.append((seen[shard], shard))
        seen[shard] += 1
    return [shard for _, shard in sorted(turns, key=lambda turn: turn[0])]
