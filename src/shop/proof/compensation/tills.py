"""A till from outside: its process, the one that takes its place, what it acknowledged, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import AsyncExitStack

import msgspec

from dougong.store import open_store
from dougong.tcc import Triggers
from shop.proof.compensation.till import TillOptions
from shop.proof.tcc.child import Child, child

__all__ = ["GROUP", "Till", "together"]

GROUP = 5
"""Transactions in one confirm. A process that dies has told of a few groups at most; the rest is in its memory."""

_MODULE = "shop.proof.compensation"
_ANSWER_S = 30.0


class Till:
    """A coordinator on a log of its own, with ids of its own, all of one shelf."""

    def __init__(self, options: TillOptions, ids: range, children: AsyncExitStack) -> None:
        self.ids = ids
        self.acknowledged: dict[int, float] = {}
        """Transaction → monotonic seconds when its confirmation was durable and said to be."""
        self._options = options
        self._children = children
        self._process: Child | None = None
        self._successor: Child | None = None

    async def start(self) -> None:
        """Its process, which does nothing yet."""
        self._process = await self._start(self._options)

    async def open(self) -> None:
        """Start its coordinator and hold all its transactions."""
        await self._ask("open")
        await self._ask(f"hold {self.ids.start} {len(self.ids)}")

    @property
    def groups(self) -> list[range]:
        """All its transactions, as they are confirmed."""
        return [range(i, min(i + GROUP, self.ids.stop)) for i in range(self.ids.start, self.ids.stop, GROUP)]

    async def confirm(self, group: range) -> None:
        """Have these confirmed; when it returns, that is durable, and a customer would know."""
        said = await self._ask(f"confirm {group.start} {len(group)}")
        self.acknowledged.update(dict.fromkeys(group, int(said.split()[1]) / 1e9))

    async def confirm_all(self) -> None:
        """Have everything confirmed, group by group."""
        for group in self.groups:
            await self.confirm(group)

    async def kill(self) -> None:
        """`kill -9`."""
        assert self._process is not None
        await self._process.kill()

    async def lose_messages(self) -> int:
        """Empty the queue in the initiator's database; how many messages there were."""
        store = await open_store(self._options.database, name="thief")
        try:
            return await store.write(lambda tx: tx.execute("DELETE FROM dougong_queue"))
        finally:
            await store.close()

    async def start_successor(self, triggers: Triggers | None = None) -> None:
        """A process to take its place, which does nothing yet; with other triggers if these are given."""
        self._successor = await self._start(
            self._options if triggers is None else msgspec.structs.replace(self._options, triggers=triggers)
        )

    async def succeed(self) -> None:
        """The successor opens the log."""
        assert self._successor is not None
        self._process, self._successor = self._successor, None
        await self._ask("open")

    async def _start(self, options: TillOptions) -> Child:
        process = await self._children.enter_async_context(child(_MODULE, msgspec.json.encode(options).decode()))
        await process.hear(_ANSWER_S)
        return process

    async def _ask(self, line: str) -> str:
        assert self._process is not None
        await self._process.tell(line)
        return await self._process.hear(_ANSWER_S)


async def together(*work: Awaitable[object]) -> None:
    """All of it at once. The first failure stops the rest, and is raised as what it is."""

    async def wait(for_: Awaitable[object]) -> None:
        await for_

    try:
        async with asyncio.TaskGroup() as group:
            for one in work:
                group.create_task(wait(one))
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
