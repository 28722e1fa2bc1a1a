"""Batches over many buckets: one unit per database, whatever number of buckets it touches there.

A thousand rows of a thousand customers lie in 128 buckets, and those in four databases: four commits, not 128. Each
unit makes sure of all its buckets at once. What a database does not own (any more) is grouped anew under the next map,
without holding up the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Generic, TypeVar

import msgspec

from dougong.errors import Error, Invalid
from dougong.shard.buckets import Key, Place, StaleEpoch
from dougong.shard.owners import guarded_all, require_all
from dougong.shard.sharded import AT_ONCE, ShardedStore
from dougong.store import Store, Tx

__all__ = ["Done", "Failed", "GroupUnit", "Grouped", "buckets_of", "read_grouped", "write_grouped"]

I = TypeVar("I")  # noqa: E741 (items)
R = TypeVar("R")

GroupUnit = Callable[[Tx, list[I]], Awaitable[R]]
"""A unit for the items that lie in one database; as any unit, it may run more than once."""

_Work = Callable[[Store, dict[int, int], list[I]], Awaitable[R]]
"""(store, bucket → epoch, items)"""


class Done(msgspec.Struct, Generic[I, R], frozen=True):
    """A unit that was committed."""

    items: list[I]
    result: R


class Failed(msgspec.Struct, Generic[I], frozen=True):
    """Items of which nothing was done, and why."""

    items: list[I]
    error: Exception


class Grouped(msgspec.Struct, Generic[I, R], frozen=True):
    """What became of a batch. Every item is in exactly one of these, in the order of the batch within it."""

    done: list[Done[I, R]]
    failed: list[Failed[I]]

    def whole(self) -> list[R]:
        """The results of all units; the first error when one failed. What others did stays done."""
        if self.failed:
            raise self.failed[0].error
        return [part.result for part in self.done]


async def buckets_of(sharded: ShardedStore, keys: Iterable[Key], *, new: bool = True) -> list[int]:
    """The bucket of each key. `new=False`: `NotFound` for keys that were never placed (see `Routing.find`)."""
    return [await sharded.bucket_of(key, new=new) for key in keys]


async def write_grouped(
    sharded: ShardedStore,
    items: Sequence[I],
    buckets: Sequence[int],
    unit: GroupUnit[I, R],
    *,
    at_once: int = AT_ONCE,
) -> Grouped[I, R]:
    """Run `unit` once in each database that owns buckets of these items, with its items, side by side.

    `buckets[i]` is the bucket of `items[i]`. Each unit is all or nothing; there is no transaction over several. Raises
    nothing that a database or a unit raised: that is told with its items.
    """

    async def work(store: Store, epochs: dict[int, int], some: list[I]) -> R:
        async def bound(tx: Tx) -> R:
            return await unit(tx, some)

        bound.__qualname__ = getattr(unit, "__qualname__", bound.__qualname__)
        return await store.write(guarded_all(bound, store, epochs))

    return await _grouped(sharded, items, buckets, work, at_once)


async def read_grouped(
    sharded: ShardedStore,
    items: Sequence[I],
    buckets: Sequence[int],
    unit: GroupUnit[I, R],
    *,
    at_once: int = AT_ONCE,
) -> Grouped[I, R]:
    """As `write_grouped`, with units that only read, each on one snapshot of its database."""

    async def work(store: Store, epochs: dict[int, int], some: list[I]) -> R:
        async def checked(tx: Tx) -> R:
            await require_all(tx, store.name, epochs)
            return await unit(tx, some)

        return await store.read(checked)

    return await _grouped(sharded, items, buckets, work, at_once)


async def _grouped(
    sharded: ShardedStore, items: Sequence[I], buckets: Sequence[int], work: _Work[I, R], at_once: int
) -> Grouped[I, R]:
    if len(items) != len(buckets):
        raise Invalid(f"{len(items)} items with {len(buckets)} buckets", code="bad_group")
    return await _Batch(sharded, work, at_once).run(list(zip(items, buckets, strict=True)))


class _Batch(Generic[I, R]):
    """A batch on its way. Pairs are (item, bucket)."""

    def __init__(self, sharded: ShardedStore, work: _Work[I, R], at_once: int) -> None:
        self._sharded = sharded
        self._work = work
        self._slots = asyncio.Semaphore(at_once)
        self._found: Grouped[I, R] = Grouped([], [])
        self._ready: list[tuple[I, int]] = []
        self._held: list[tuple[I, int]] = []
        """Of buckets that were not where the map says, or fenced there."""
        self._stale: StaleEpoch | None = None

    async def run(self, pairs: list[tuple[I, int]]) -> Grouped[I, R]:
        sharded = self._sharded
        until = sharded.clock.monotonic() + sharded.stale_wait_s
        self._ready = pairs
        while self._ready or self._held:
            if not self._ready and self._stale is not None:
                try:
                    await sharded.catch_up(self._stale, sorted({bucket for _, bucket in self._held}), until)
                except Error as error:
                    self._found.failed.append(Failed([item for item, _ in self._held], error))
                    break
                self._ready, self._held = self._held, []
            places = sharded.map.places
            groups: dict[str, list[tuple[I, int]]] = {}
            for pair in self._ready:
                groups.setdefault(places[pair[1]].shard, []).append(pair)
            self._ready = []
            if len(groups) == 1:
                ((shard, group),) = groups.items()
                await self._one(shard, group, places)
                continue
            async with asyncio.TaskGroup() as tasks:
                for shard, group in groups.items():
                    tasks.create_task(self._one(shard, group, places))
        return self._found

    async def _one(self, shard: str, group: list[tuple[I, int]], places: Sequence[Place]) -> None:
        epochs = {bucket: places[bucket].epoch for _, bucket in group}
        items = [item for item, _ in group]
        try:
            async with self._slots:
                result = await self._sharded.databases.call(shard, lambda store: self._work(store, epochs, items))
        except StaleEpoch as stale:
            self._stale = stale
            named = epochs.keys() & set(stale.buckets) or epochs.keys()
            self._held += [pair for pair in group if pair[1] in named]
            self._ready += [pair for pair in group if pair[1] not in named]
        except Exception as error:  # noqa: BLE001 (told with its items)
            self._found.failed.append(Failed(items, error))
        else:
            self._found.done.append(Done(items, result))
