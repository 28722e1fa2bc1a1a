"""The physical databases: opened when first needed, left alone for a while when they do not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TypeVar

from dougong.breaker import Breaker, BreakerPolicy
from dougong.clock import Clock
from dougong.errors import Error, Invalid, Unavailable
from dougong.shard.owners import OWNER_MIGRATIONS
from dougong.store import Store, open_store
from dougong.telemetry import counter

__all__ = ["Databases", "side_by_side"]

R = TypeVar("R")

_GONE = frozenset(
    "cannot_open commit_unknown connect_failed connection_lost directory_missing io_error"  # noqa: SIM905 (a table of words)
    " no_connection_free statement_timeout too_many_connections".split()
)
"""Codes that say nothing about the request and all about the database. A full or locked one still answers reads."""
_refused = counter("dougong_shard_refused_total", "Calls not made because their database did not answer.", ("shard",))


class Databases:
    """Name → `Store`, each behind a breaker. A hundred of them cost only as many as are used."""

    def __init__(
        self,
        urls: Mapping[str, str],
        *,
        of: str,
        clock: Clock,
        breaker: BreakerPolicy,
        opener: Callable[[str], Awaitable[Store]] | None = None,
        added: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        """`opener`: how a database is opened by its name, where not by its URL; `added`: the URL of a later one."""
        self._opener = opener
        self._added = added
        self._policy = breaker
        self.names = tuple(urls)
        self.dialect = next(iter(urls.values())).partition(":")[0]
        self._urls = dict(urls)
        self._of = of
        self._clock = clock
        self._stores: dict[str, Store] = {}
        self._opening = {name: asyncio.Lock() for name in urls}
        self._breakers = {name: Breaker(breaker) for name in urls}
        self._closed = False

    def knows(self, name: str) -> bool:
        """Whether there is such a database; one that was added since is known from now on."""
        if name not in self._urls:
            url = self._added(name)
            if url is None:
                return False
            self._urls[name] = url
            self._opening[name] = asyncio.Lock()
            self._breakers[name] = Breaker(self._policy)
            self.names = (*self.names, name)
        return True

    def check(self, name: str) -> None:
        """`Invalid` (code `unknown_shard`) for a database that is not configured."""
        if not self.knows(name):
            raise Invalid(
                f"the bucket map of {self._of} names database {name!r}, which is not configured; there are"
                f" {', '.join(self.names)}",
                code="unknown_shard",
                shard=name,
            )

    async def call(self, name: str, work: Callable[[Store], Awaitable[R]]) -> R:
        """Run `work` on that database.

        `Unavailable` (code `shard_unavailable`) without trying, while it has not answered several times in a row.
        """
        self.check(name)
        breaker = self._breakers[name]
        now = self._clock.monotonic()
        ticket = breaker.admit(now)
        if ticket is None:
            _refused.inc(1, name)
            raise Unavailable(
                f"database {name} of {self._of} did not answer lately; it is tried again soon",
                code="shard_unavailable",
                retry_after_s=breaker.wait_s(now),
                shard=name,
            )
        try:
            result = await work(self._stores.get(name) or await self._opened(name))
        except Error as error:
            if error.code in _GONE:
                breaker.failed(ticket, self._clock.monotonic())
            else:
                breaker.succeeded()
            error.fields.setdefault("shard", name)
            raise
        breaker.succeeded()
        return result

    async def close(self) -> None:
        """Close what was opened; what is being opened is refused."""
        self._closed = True
        while self._stores:
            await self._stores.popitem()[1].close()

    async def _opened(self, name: str) -> Store:
        async with self._opening[name]:
            if self._closed:
                raise Unavailable(f"sharded store {self._of} is closed", code="closed")
            if name not in self._stores:
                if self._opener is not None:
                    store = await self._opener(name)
                else:
                    store = await open_store(self._urls[name], name=f"{self._of}.{name}", clock=self._clock)
                try:
                    await store.migrate("dougong.shard", OWNER_MIGRATIONS)
                except BaseException:
                    await store.close()
                    raise
                self._stores[name] = store
            return self._stores[name]


async def side_by_side(
    names: Iterable[str], work: Callable[[str], Awaitable[R]], *, at_once: int, partial: bool = False
) -> tuple[dict[str, R], dict[str, Error]]:
    """`work` for every name, at most `at_once` together: what came, and with `partial` what failed.

    Without it the first failure ends the others and is raised.
    """
    found: dict[str, R] = {}
    failed: dict[str, Error] = {}
    listed = list(names)
    queue = iter(listed)

    async def worker() -> None:
        for name in queue:
            try:
                found[name] = await work(name)
            except Error as error:
                failed[name] = error
                if not partial:
                    raise

    together = min(at_once, len(listed))
    if together <= 1:
        await worker()
        return found, failed
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(together):
                group.create_task(worker())
    except BaseExceptionGroup:
        if not failed:  # no error of a database: a fault of ours
            raise
    if failed and not partial:
        raise next(iter(failed.values()))
    return found, failed
