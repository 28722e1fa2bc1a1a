"""The embedded engine: one SQLite file, read inline, written by one group-committing writer."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import TypeVar
from urllib.parse import quote

from dougong.clock import Clock
from dougong.errors import Internal, Unavailable
from dougong.store import _migrate
from dougong.store._faults import translate
from dougong.store._group import GroupWriter, warn_slow
from dougong.store._protocol import Migration, Row, Tx, Unit, Value
from dougong.store._turns import Turnstile
from dougong.store._tx import SqliteTx, drive
from dougong.store._url import SqliteOptions
from dougong.store._worker import Worker

__all__ = ["SqliteStore"]

R = TypeVar("R")

CACHED_STATEMENTS = 512
CHECKPOINT_PAGES = 4000
"""About 16 MB of WAL before its pages move into the database file: fewer, longer syncs than the default 1000."""


class SqliteStore:
    """`Store` over one file. Made by `open_store`; belongs to the loop it was opened on.

    Reads run on the loop's thread on a connection of their own: a point read costs microseconds, a thread hop more.
    They see everything that was acknowledged before them. Several processes may share the file; they take turns.
    """

    dialect = "sqlite"

    def __init__(
        self,
        options: SqliteOptions,
        *,
        name: str,
        clock: Clock,
        queued_max: int,
        group_max: int,
        worker: Worker,
        writer: sqlite3.Connection,
        reader: sqlite3.Connection,
    ) -> None:
        self.name = name
        self.path = options.path
        self._options = options
        self._clock = clock
        self._worker = worker
        self._reader = reader
        self._read_tx = SqliteTx(reader, options.path, reads_only=True)
        self._writer = GroupWriter(
            asyncio.get_running_loop(),
            worker,
            lambda: connect(options, create=False),
            writer,
            options.path,
            name=name,
            queued_max=queued_max,
            group_max=group_max,
            lock_timeout_s=options.lock_timeout_s,
        )
        self._closing: asyncio.Task[None] | None = None

        self._read_tx.open()

    @classmethod
    async def open(
        cls, options: SqliteOptions, *, name: str, clock: Clock, queued_max: int, group_max: int
    ) -> SqliteStore:
        """Open (or create) the file; `Unavailable` says what is wrong with it."""
        worker = Worker(asyncio.get_running_loop(), name)
        made: list[sqlite3.Connection] = []

        def work() -> None:
            if not options.path.parent.is_dir():
                raise Unavailable(
                    f"database {options.path}: directory {options.path.parent} does not exist; create it",
                    code="directory_missing",
                    path=str(options.path),
                )
            made.append(connect(options, create=True))
            made.append(connect(options, create=False, reads_only=True))

        try:
            await worker.call(work)
        except Exception as error:
            for connection in made:
                connection.close()
            worker.stop()
            raise translate(error, options.path) from error
        writer, reader = made
        return cls(
            options,
            name=name,
            clock=clock,
            queued_max=queued_max,
            group_max=group_max,
            worker=worker,
            writer=writer,
            reader=reader,
        )

    async def write(self, unit: Unit[R]) -> R:
        future = self._writer.submit(unit)
        try:
            return await future
        except GeneratorExit:  # called from inside a unit, which was refused for it
            future.cancel()
            raise

    async def read(self, unit: Unit[R]) -> R:
        try:
            return self._snapshot(unit)
        except Unavailable as fault:
            return await self._read_again(fault, lambda: self._snapshot(unit))

    async def fetch_all(self, sql: str, parameters: Sequence[Value] = ()) -> list[Row]:
        try:
            return await self._read_tx.fetch_all(sql, parameters)
        except Unavailable as fault:
            return await self._read_again(fault, lambda: drive(lambda tx: tx.fetch_all(sql, parameters), self._read_tx))

    async def fetch_one(self, sql: str, parameters: Sequence[Value] = ()) -> Row | None:
        try:
            return await self._read_tx.fetch_one(sql, parameters)
        except Unavailable as fault:
            return await self._read_again(fault, lambda: drive(lambda tx: tx.fetch_one(sql, parameters), self._read_tx))

    async def migrate(self, owner: str, migrations: Sequence[Migration]) -> int:
        _migrate.check(owner, migrations)
        if self._closing is not None:
            raise _closed(self.name)
        now_us = self._clock.now_us()
        # A connection and a thread of its own: it waits for the write lock like any other process would.
        return await asyncio.to_thread(_migrate_file, self._options, owner, migrations, now_us)

    async def check(self) -> None:
        await self.fetch_one("SELECT count(*) FROM sqlite_schema")
        if self._writer.fault is not None:
            await self.write(_probe)

    async def close(self) -> None:
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name=f"close store {self.name}")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        await self._writer.drain()
        self._read_tx.shut()
        self._read_tx.broken = _closed(self.name)

        def work() -> None:
            self._reader.close()
            self._writer.shut()  # the last connection to close moves the WAL into the file: that may take a while

        try:
            await self._worker.call(work)
        finally:
            self._worker.stop()

    def _snapshot(self, unit: Unit[R]) -> R:
        if self._read_tx.broken is not None:
            raise self._read_tx.broken
        if self._reader.in_transaction:
            raise Internal("a read inside a read's unit; use the handle the unit was given", code="nested_read")
        try:
            self._reader.execute("BEGIN")
        except sqlite3.Error as error:
            raise translate(error, self.path) from error
        started = time.perf_counter()
        try:
            return drive(unit, self._read_tx)
        finally:
            self._end_snapshot()
            warn_slow(self.name, unit, time.perf_counter() - started)

    def _end_snapshot(self) -> None:
        if self._reader.in_transaction:  # a fault may have ended it
            self._reader.execute("ROLLBACK")

    async def _read_again(self, fault: Unavailable, attempt: Callable[[], R]) -> R:
        """Reads meet a lock only while another process recovers the WAL; other faults may be the old connection's."""
        until = time.monotonic() + self._options.lock_timeout_s
        reopened = False
        while True:
            if fault.code == "locked" and time.monotonic() < until:
                await asyncio.sleep(0.005)
            elif fault.code in ("read_only", "io_error", "corrupt", "cannot_open") and not reopened:
                reopened = True
                await self._reopen_reader(fault)
            else:
                raise fault
            try:
                return attempt()
            except Unavailable as again:
                fault = again

    async def _reopen_reader(self, fault: Unavailable) -> None:
        made: list[sqlite3.Connection] = []
        try:
            await self._worker.call(lambda: made.append(connect(self._options, create=False, reads_only=True)))
        except sqlite3.Error as error:
            raise translate(error, self.path) from fault
        if self._closing is not None:
            made[0].close()
            raise _closed(self.name)
        self._reader.close()
        self._reader = made[0]
        self._read_tx = SqliteTx(self._reader, self.path, reads_only=True)
        self._read_tx.open()


async def _probe(tx: Tx) -> None:
    """The smallest write there is: after a fault, whether the disk takes writes again."""
    await tx.execute("CREATE TABLE IF NOT EXISTS dougong_probe (tried INTEGER NOT NULL)")
    await tx.execute("DELETE FROM dougong_probe")
    await tx.execute("INSERT INTO dougong_probe VALUES (1)")


def _closed(name: str) -> Unavailable:
    return Unavailable(f"store {name} is closed", code="closed", store=name)


def connect(options: SqliteOptions, *, create: bool, reads_only: bool = False) -> sqlite3.Connection:
    """One connection, set up; blocks on the disk.

    Only the first may create the file: one that vanished later is a fault, not an empty database to go on with.
    """
    connection = sqlite3.connect(
        f"file:{quote(str(options.path))}?mode={'rwc' if create else 'rw'}",
        uri=True,
        timeout=options.lock_timeout_s,  # switching to WAL, or recovering it, may wait for another process
        isolation_level=None,
        check_same_thread=False,  # loop and worker take turns, never at once
        cached_statements=CACHED_STATEMENTS,
    )
    try:
        (mode,) = connection.execute("PRAGMA journal_mode = wal").fetchone()
        if mode != "wal":
            raise Unavailable(
                f"database {options.path} has no write-ahead log (journal mode {mode!r}); move it to a local disk",
                code="no_wal",
                path=str(options.path),
            )
        connection.execute(f"PRAGMA synchronous = {options.synchronous}")
        connection.execute("PRAGMA foreign_keys = on")
        connection.execute("PRAGMA recursive_triggers = on")  # or REPLACE deletes without a trigger's knowing
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        if reads_only:
            connection.execute("PRAGMA query_only = on")
        else:
            connection.execute(f"PRAGMA cache_size = {-options.cache_mb * 1024}")  # negative: in KiB
        connection.execute("PRAGMA busy_timeout = 0")  # from here on waiting is done off the loop
    except BaseException:
        connection.close()
        raise
    return connection


def _migrate_file(options: SqliteOptions, owner: str, migrations: Sequence[Migration], now_us: int) -> int:
    try:
        connection = connect(options, create=False)
        try:
            # Tables may be rebuilt under references to them, so these are checked once, when all steps are done.
            connection.execute("PRAGMA foreign_keys = off")
            turnstile = Turnstile(options.path)
            try:
                turnstile.begin_patiently(connection, options.lock_timeout_s)
            finally:
                turnstile.close()
            try:
                applied = _migrate.apply(connection, owner, migrations, now_us)
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise translate(error, options.path, " ".join(getattr(error, "__notes__", ()))) from error
    return applied
