"""A registry that others have used before, seen as if its revisions began at 0."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Sequence
from contextlib import contextmanager

import msgspec

from dougong.errors import Conflict
from dougong.registry import Change, Compacted, Lease, Listing, Registry


class RebasedRegistry:
    """`inner`, with `base` taken off every revision."""

    def __init__(self, inner: Registry, base: int) -> None:
        self.inner = inner
        self._base = base

    async def grant(self, ttl_s: float) -> Lease:
        return await self.inner.grant(ttl_s)

    async def keep_alive(self, lease: int) -> float:
        return await self.inner.keep_alive(lease)

    async def revoke(self, lease: int) -> None:
        await self.inner.revoke(lease)

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        return await self.inner.put(key, value, lease=lease) - self._base

    async def create(self, key: str, value: bytes, *, lease: int = 0) -> int:
        with self._shifted():
            return await self.inner.create(key, value, lease=lease) - self._base

    async def delete(self, key: str) -> bool:
        return await self.inner.delete(key)

    async def list(self, prefix: str) -> Listing:
        listing = await self.inner.list(prefix)
        items = tuple(
            msgspec.structs.replace(
                item,
                create_revision=item.create_revision - self._base,
                mod_revision=item.mod_revision - self._base,
            )
            for item in listing.items
        )
        return Listing(items=items, revision=listing.revision - self._base)

    async def watch(self, prefix: str, from_revision: int) -> AsyncIterator[Sequence[Change]]:
        first = from_revision + self._base if from_revision > 0 else from_revision
        with self._shifted():
            async for changes in self.inner.watch(prefix, first):
                yield tuple(msgspec.structs.replace(c, revision=c.revision - self._base) for c in changes)

    async def compact(self, revision: int) -> None:
        await self.inner.compact(revision + self._base)

    async def close(self) -> None:
        await self.inner.close()

    @contextmanager
    def _shifted(self) -> Generator[None]:
        try:
            yield
        except Compacted as error:
            raise Compacted(int(error.fields["revision"]) - self._base, error.compacted - self._base) from None
        except Conflict as error:
            error.fields["create_revision"] = int(error.fields["create_revision"]) - self._base
            raise
