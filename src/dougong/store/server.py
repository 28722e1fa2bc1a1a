"""A database on a server: written by one group-committing writer, read over connections of their own."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Sequence
from typing import TypeVar

from dougong.clock import Clock
from dougong.errors import Error, Unavailable
from dougong.store import _migrate
from dougong.store._dial import Dialer
from dougong.store._link import Engine, Link
from dougong.store._pool import Pool
from dougong.store._protocol import Migration, Row, Tx, Unit, Value
from dougong.store._server_group import ServerWriter, judge
from dougong.store._server_tx import Driven, ServerTx

__all__ = ["ServerStore"]

R = TypeVar("R")


class ServerStore:
    """`Store` over one database on a server. Made by `open_store`; belongs to the loop it was opened on.

    Reads see everything that was acknowledged before them. Several processes may share the database; their groups
    take turns. A server that was gone is found again by the next call.
    """

    def __init__(self, dialer: Dialer, link: Link, *, name: str, clock: Clock, queued_max: int, group_max: int) -> None:
        self.name = name
        self.dialect = dialer.engine.options.dialect
        self._dialer = dialer
        self._engine = dialer.engine
        self._clock = clock
        self._writer = ServerWriter(dialer, link, name=name, queued_max=queued_max, group_max=group_max)
        self._readers = Pool(dialer, name=name, waiting_max=queued_max, now=clock.monotonic)
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, engine: Engine, *, name: str, clock: Clock, queued_max: int, group_max: int) -> ServerStore:
        """Connect; `Unavailable` says what is wrong with the server, or with how it keeps what it acknowledged."""
        dialer = Dialer(engine, name=name, now=clock.monotonic)
        link = await dialer.connect()
        try:
            async with asyncio.timeout(engine.options.statement_timeout_s):
                await engine.prepare(link)
        except BaseException as error:
            link.abort()
            if isinstance(error, Exception):
                raise judge(error, engine).fault from error
            raise
        return cls(dialer, link, name=name, clock=clock, queued_max=queued_max, group_max=group_max)

    async def write(self, unit: Unit[R]) -> R:
        future = self._writer.submit(unit)
        try:
            return await future
        except GeneratorExit:  # called from inside a unit, which was refused for it
            future.cancel()
            raise

    async def read(self, unit: Unit[R]) -> R:
        context = contextvars.copy_context()

        async def work(link: Link) -> R:
            await self._control(link, self._engine.begin_snapshot)
            tx = self._reading(link)
            try:
                return await Driven(unit, tx, context)
            finally:
                tx.shut()
                if link.usable:
                    await self._control(link, "COMMIT")

        return await self._readers.use(work)

    async def fetch_all(self, sql: str, parameters: Sequence[Value] = ()) -> list[Row]:
        return await self._readers.use(lambda link: self._reading(link).fetch_all(sql, parameters))

    async def fetch_one(self, sql: str, parameters: Sequence[Value] = ()) -> Row | None:
        return await self._readers.use(lambda link: self._reading(link).fetch_one(sql, parameters))

    async def migrate(self, owner: str, migrations: Sequence[Migration]) -> int:
        _migrate.check(owner, migrations)
        if self._closing is not None:
            raise Unavailable(f"store {self.name} is closed", code="closed", store=self.name)
        link = await self._dialer.connect()
        try:
            return await self._engine.migrate(link, owner, migrations, self._clock.now_us())
        except Exception as error:
            if isinstance(error, Error):
                raise
            raise judge(error, self._engine).fault from error
        finally:
            link.abort()

    async def check(self) -> None:
        await self.fetch_one("SELECT 1")
        if self._writer.fault is not None:
            await self.write(_look)

    async def close(self) -> None:
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name=f"close store {self.name}")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        await self._writer.close()
        self._readers.close()

    def _reading(self, link: Link) -> ServerTx:
        tx = ServerTx(self._engine, link, reads_only=True)
        tx.open()
        return tx

    async def _control(self, link: Link, sql: str) -> None:
        try:
            async with asyncio.timeout(self._engine.options.statement_timeout_s + 1.0):
                await link.control(sql)
        except Exception as error:
            verdict = judge(error, self._engine)
            if verdict.lost:
                link.abort()
            raise verdict.fault from error


async def _look(tx: Tx) -> Row | None:
    return await tx.fetch_one("SELECT 1")
