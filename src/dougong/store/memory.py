"""One database in memory, worked on at once: SQLite as the embedded engine runs it, without file, sync or waiting.

For simulations, which add time, faults and crashes themselves. The statements, the errors and the rules of a unit are
the same as on disk, since the same transaction handle runs them.
"""

from __future__ import annotations

import sqlite3
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from dougong.store import _migrate
from dougong.store._faults import translate
from dougong.store._protocol import Migration, Row, Unit, Value
from dougong.store._tx import SqliteTx, drive

__all__ = ["MemoryDatabase"]

R = TypeVar("R")


class MemoryDatabase:
    """Synchronous: a unit is committed, or undone, when `write` returns."""

    dialect = "sqlite"

    def __init__(self, name: str) -> None:
        self.name = name
        self._path = Path(name)
        self._connection = sqlite3.connect(
            ":memory:", isolation_level=None, cached_statements=512, check_same_thread=False
        )
        self._connection.execute("PRAGMA foreign_keys = on")
        self._connection.execute("PRAGMA recursive_triggers = on")
        self._tx = SqliteTx(self._connection, self._path)
        self._read_tx = SqliteTx(self._connection, self._path, reads_only=True)
        self._read_tx.open()
        weakref.finalize(self, self._connection.close)  # they are made by the thousand, and nobody closes them

    def write(self, unit: Unit[R]) -> R:
        """Run a unit and commit it; raises what the unit raised, with nothing of it kept."""
        tx = self._tx
        self._connection.execute("BEGIN")
        tx.open()
        try:
            result = drive(unit, tx)
            if tx.broken is not None:
                raise tx.broken
            tx.shut()
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise translate(error, self._path) from error
        finally:
            tx.shut()
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        return result

    def read(self, unit: Unit[R]) -> R:
        """Run a unit that only reads."""
        self._connection.execute("BEGIN")
        try:
            return drive(unit, self._read_tx)
        finally:
            self._connection.execute("ROLLBACK")

    def fetch_all(self, sql: str, parameters: Sequence[Value] = ()) -> list[Row]:
        """All rows of a query."""
        return drive(lambda tx: tx.fetch_all(sql, parameters), self._read_tx)

    def fetch_one(self, sql: str, parameters: Sequence[Value] = ()) -> Row | None:
        """The first row of a query, or None."""
        return drive(lambda tx: tx.fetch_one(sql, parameters), self._read_tx)

    def migrate(self, owner: str, migrations: Sequence[Migration], now_us: int) -> int:
        """Apply what is missing; how many steps that took."""
        _migrate.check(owner, migrations)
        self._connection.execute("BEGIN")
        try:
            applied = _migrate.apply(self._connection, owner, migrations, now_us)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise translate(error, self._path, " ".join(getattr(error, "__notes__", ()))) from error
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        return applied

    def run_script(self, script: str) -> None:
        """Several statements, for setting up."""
        self._connection.executescript(script)

    def dump(self) -> bytes:
        """Everything in it."""
        (pages,) = self._connection.execute("PRAGMA page_count").fetchone()
        return self._connection.serialize() if pages else b""

    def restore(self, dump: bytes) -> None:
        """Become what was dumped; an empty dump empties it."""
        if dump:
            self._connection.deserialize(dump)
            return
        empty = sqlite3.connect(":memory:")
        empty.backup(self._connection)
        empty.close()
