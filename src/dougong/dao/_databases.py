"""The seam between entities and where their rows are: one store, or many that divide the keys between them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from dougong.store import Store, Value

__all__ = ["Databases", "OneStore", "together"]

R = TypeVar("R")

AT_ONCE_MAX = 16


class Databases(Protocol):
    """Which database holds a key, and which there are.

    A sharded store implements this, and a `DAO` over it works as over a plain `Store`: operations on one key go to
    that key's database, `get_many` and `create_many` are grouped by database, and `find`, `count` and `stream` ask all
    of them, but only with `scatter=True`.

    What it hands out are `Store`s, and may be views on one: a view that fences its writes, or finds another database
    and tries again when the map changed meanwhile, is the implementation's own business. Keys of one view are read
    and written together, so hand out the same view for the same database. All have the same `dialect` and tables, and
    a row is visible through one of them only.
    """

    @property
    def dialect(self) -> str:
        """`sqlite`, `mysql` or `postgresql`."""

    async def database_of(self, key: Value) -> Store:
        """The database of the row with this key (as it is held: a UUID as text); `Unavailable` when it has none now."""

    async def all_databases(self) -> Sequence[Store]:
        """Those that hold rows between them."""


class OneStore:
    """All keys in one store."""

    def __init__(self, store: Store) -> None:
        self.dialect = store.dialect
        self._store = store

    async def database_of(self, key: Value) -> Store:
        return self._store

    async def all_databases(self) -> Sequence[Store]:
        return [self._store]


async def together(calls: Sequence[Callable[[], Awaitable[R]]]) -> list[R]:
    """The results of all, at most 16 at once. All are waited for; then the first failure is raised, if there is one."""
    if len(calls) == 1:
        return [await calls[0]()]
    slots = asyncio.Semaphore(AT_ONCE_MAX)
    failures: list[Exception] = []

    async def settle(call: Callable[[], Awaitable[R]]) -> list[R]:
        async with slots:
            try:
                return [await call()]
            except Exception as failure:  # noqa: BLE001 (raised below)
                failures.append(failure)
                return []

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(settle(call)) for call in calls]
    if failures:
        raise failures[0]
    return [result for task in tasks for result in task.result()]
