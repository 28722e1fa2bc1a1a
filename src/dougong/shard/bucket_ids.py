"""Ids that belong to any bucket, from one lease.

A leased minter gives out places in time, each once. Whoever mints for all 128 buckets would need 128 leases, each
renewed every few seconds, to make a handful of ids. But a place in time that was given out once may as well be used for
a bucket that is only then chosen: what is unique is the place. So one lease, of one of 16 workers, serves all buckets,
and the worker's number stands in the id:

    42 bits of milliseconds · 8 bits of bucket · 4 bits of worker · 3 bits of sequence · 7 bits of bucket

As with any aligned id, `id % 128` and the shard within it are the bucket. Do not mint with `IdMinter` for the same kind
of rows: both would use the same numbers.
"""

from __future__ import annotations

import asyncio
import random as random_module
from types import TracebackType
from typing import Self

from dougong.clock import Clock
from dougong.errors import Invalid, Unavailable
from dougong.shard.buckets import BUCKETS
from dougong.shard.id_minter import IdMinter, IdSettings
from dougong.shard.ids import ALIGNMENT, IdParts, pack_id, unpack_id
from dougong.store import Store

__all__ = ["BucketIds"]

WORKERS = 16
SLOTS = 8
"""Ids of one worker in one millisecond: 8,000 a second."""
_NEXT_MS_S = 0.001


class BucketIds:
    """Mints for all buckets; up to 16 processes at once, each under a lease of its own, kept in `store`.

    >>> async with BucketIds(users.metadata, holder="users-1") as ids:        # doctest: +SKIP
    ...     user_id = await ids.one(bucket=17)                                # user_id % 128 == 17
    """

    def __init__(
        self,
        store: Store,
        *,
        holder: str,
        clock: Clock | None = None,
        settings: IdSettings | None = None,
        random: random_module.Random | None = None,
    ) -> None:
        self._store = store
        self._holder = holder
        self._clock = clock
        self._settings = settings
        self._random = random if random is not None else random_module.SystemRandom()
        self._minter: IdMinter | None = None

    @property
    def worker(self) -> int | None:
        """Its number, once it has one."""
        return self._minter.shard if self._minter is not None else None

    async def start(self) -> None:
        """Lease the number of a worker that nobody has. `Unavailable` (code `no_lease`) when all 16 are taken.

        The number of one that died without a word is free again after its term; others are free at once.
        """
        first = self._random.randrange(WORKERS)
        for offset in range(WORKERS):
            minter = IdMinter(
                self._store,
                (first + offset) % WORKERS,
                holder=self._holder,
                clock=self._clock,
                settings=self._settings,
                random=self._random,
            )
            await minter.start()
            if minter.epoch:
                self._minter = minter
                return
            await minter.stop()
        raise Unavailable(
            f"all {WORKERS} workers that may mint ids in {self._store.name} are taken, or it cannot be reached",
            code="no_lease",
            retry_after_s=1.0,
        )

    async def stop(self) -> None:
        """Give the worker's number back."""
        minter, self._minter = self._minter, None
        if minter is not None:
            await minter.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def one(self, bucket: int) -> int:
        """An id of this bucket; waits for the next millisecond where that helps. Raises as `IdMinter.take` does."""
        if not 0 <= bucket < BUCKETS:
            raise Invalid(f"there is no bucket {bucket}; there are 0 to {BUCKETS - 1}", code="bad_bucket")
        minter = self._minter
        if minter is None:
            raise Unavailable("the minter is not started", code="no_lease")
        while True:
            (number,) = await minter.take(1, aligned=True)
            place = unpack_id(number)
            slot = place.sequence // ALIGNMENT
            if slot < SLOTS:
                return pack_id(IdParts(place.time_ms, bucket, (minter.shard * SLOTS + slot) * ALIGNMENT + bucket))
            await asyncio.sleep(_NEXT_MS_S)
