"""A registry that can be made to fail, for tests of those who depend on one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from dougong.errors import Unavailable
from dougong.registry import Change, Lease, Listing, MemoryRegistry


class FaultyRegistry:
    """`MemoryRegistry` behind a line that can be cut (`down`), or left hanging (`frozen`)."""

    def __init__(self, inner: MemoryRegistry) -> None:
        self.inner = inner
        self.calls: list[str] = []
        self.frozen = False
        self.faults = 0
        """How many of the next calls meet a bug."""
        self._down = False
        self._cut = asyncio.Event()

    @property
    def down(self) -> bool:
        return self._down

    @down.setter
    def down(self, down: bool) -> None:
        self._down = down
        if down:
            self._cut.set()
        else:
            self._cut = asyncio.Event()

    async def _pass(self, name: str) -> None:
        self.calls.append(name)
        if self.faults:
            self.faults -= 1
            raise ZeroDivisionError("a bug")
        if self.frozen:
            await asyncio.Event().wait()
        if self._down:
            raise Unavailable("the line is cut", code="cut")

    async def grant(self, ttl_s: float) -> Lease:
        await self._pass("grant")
        return await self.inner.grant(ttl_s)

    async def keep_alive(self, lease: int) -> float:
        await self._pass("keep_alive")
        return await self.inner.keep_alive(lease)

    async def revoke(self, lease: int) -> None:
        await self._pass("revoke")
        await self.inner.revoke(lease)

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        await self._pass("put")
        return await self.inner.put(key, value, lease=lease)

    async def create(self, key: str, value: bytes, *, lease: int = 0) -> int:
        await self._pass("create")
        return await self.inner.create(key, value, lease=lease)

    async def delete(self, key: str) -> bool:
        await self._pass("delete")
        return await self.inner.delete(key)

    async def list(self, prefix: str) -> Listing:
        await self._pass("list")
        return await self.inner.list(prefix)

    async def watch(self, prefix: str, from_revision: int) -> AsyncIterator[Sequence[Change]]:
        await self._pass("watch")
        cut = self._cut
        inner = self.inner.watch(prefix, from_revision)
        while True:
            following = asyncio.ensure_future(anext(inner))
            cutting = asyncio.ensure_future(cut.wait())
            try:
                await asyncio.wait({following, cutting}, return_when=asyncio.FIRST_COMPLETED)
                if cut.is_set():
                    raise Unavailable("the line is cut", code="cut")
                yield await following
            finally:
                following.cancel()
                cutting.cancel()
                await asyncio.gather(following, cutting, return_exceptions=True)

    async def compact(self, revision: int) -> None:
        await self._pass("compact")
        await self.inner.compact(revision)

    async def close(self) -> None:
        await self.inner.close()
