"""The processes of one measurement: started on fresh databases, ended with the block, their books checked."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec

from dougong.store import open_store
from shop.proof.tcc.child import Child, child
from shop.proof.tcc.load import LoadOptions, LoadResult
from shop.proof.tcc.shelf import PLENTY, SKUS

__all__ = ["Stand", "row_lock", "stand"]

_MODULE = "shop.proof.tcc"
_START_S = 30.0
_SPARE_S = 150.0


class Stand:
    """A shelf that is up, until it is told otherwise."""

    def __init__(self, shelf_url: str, group_max: int, children: AsyncExitStack) -> None:
        self.shelf_url = shelf_url
        self.address = "127.0.0.1:0"
        """Where it listens; once it has a port, it comes back on that."""
        self.acknowledged = 0
        """Transactions of which somebody was told that they are decided: so many must be sold in the end."""
        self._group_max = group_max
        self._children = children
        self._shelf: Child | None = None

    async def start(self) -> None:
        """Bring the shelf up; when this returns, it serves."""
        arguments = ("shelf", self.shelf_url, str(self._group_max), self.address)
        self._shelf = await self._children.enter_async_context(child(_MODULE, *arguments))
        self.address = await self._shelf.hear(_START_S)

    @property
    def shelf(self) -> Child:
        """Its process."""
        assert self._shelf is not None, "the shelf was never started"
        return self._shelf

    async def load(
        self, log_url: str, *, seconds: float, batch: int, runs: int, skus: int, group_max: int = 512
    ) -> LoadResult:
        """One load from a process of its own, with its log in a fresh database."""
        options = LoadOptions(
            database=log_url,
            shelf=self.address,
            shelf_pid=self.shelf.pid,
            seconds=seconds,
            batch=batch,
            runs=runs,
            skus=skus,
            group_max=group_max,
        )
        out = await _ask("load", msgspec.json.encode(options).decode(), seconds=seconds + _SPARE_S)
        result = msgspec.json.decode(out, type=LoadResult)
        self.acknowledged += result.acknowledged + result.warm_up
        return result

    async def problems(self) -> list[str]:
        """What is wrong with the shelf's books; empty when nothing is."""
        store = await open_store(self.shelf_url, name="books")
        try:
            row = await store.fetch_one("SELECT sum(available), sum(frozen), sum(sold), min(available) FROM shelf")
        finally:
            await store.close()
        assert row is not None
        available, frozen, sold, least = (int(str(value)) for value in row)
        found = []
        if available + frozen + sold != PLENTY * SKUS:
            found.append(f"available {available} + frozen {frozen} + sold {sold} is not {PLENTY * SKUS}")
        if frozen or least < 0:
            found.append(f"{frozen} are still frozen, the least available is {least}")
        if sold != self.acknowledged:
            found.append(f"{sold} were sold, {self.acknowledged} acknowledged")
        return found


@asynccontextmanager
async def stand(shelf_url: str, *, group_max: int = 512) -> AsyncGenerator[Stand]:
    """A shelf on that database, in a process of its own."""
    async with AsyncExitStack() as children:
        started = Stand(shelf_url, group_max, children)
        await started.start()
        yield started


async def row_lock(url: str, *, seconds: float, skus: int) -> float:
    """Orders a second of the baseline on a fresh database."""
    return float(await _ask("row-lock", url, str(seconds), str(skus), seconds=seconds + _SPARE_S))


async def _ask(*arguments: str, seconds: float) -> str:
    async with child(_MODULE, *arguments) as asked:
        return await asked.hear(seconds)
