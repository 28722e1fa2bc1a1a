"""A transaction handle over one sqlite3 connection, and the driver that runs a unit through it without suspending.

Statements run where they are called, on the loop's thread: a row costs 2 to 3 µs there and a thread hop 20 to 100. So
the handle's coroutines never yield, and `drive` runs a whole unit with a single `send`.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Awaitable, Iterable, Sequence
from pathlib import Path
from types import CoroutineType
from typing import TypeVar, cast

from dougong.errors import Error, Internal
from dougong.store._faults import needs_reopening, translate
from dougong.store._protocol import Row, Unit, Value

__all__ = ["NOT_YOURS", "SqliteTx", "describe", "drive", "first_word", "is_reading", "not_yours", "reads_only_error"]

R = TypeVar("R")

_FIRST_WORD = re.compile(r"(?:\s|;|--[^\n]*(?:\n|$)|/\*.*?\*/)*([A-Za-z]*)", re.DOTALL)
_READS = frozenset({"SELECT", "VALUES", "EXPLAIN"})
NOT_YOURS = frozenset(
    "BEGIN COMMIT END ROLLBACK SAVEPOINT RELEASE ATTACH DETACH PRAGMA VACUUM".split()  # noqa: SIM905 (a table of words)
)
_REMEMBERED_MAX = 4096  # statements; more means that somebody builds SQL from values


class SqliteTx:
    """`Tx` on one connection. Serves one unit after another; `open` and `shut` say when statements are allowed."""

    __slots__ = ("_admitted", "_connection", "_cursor", "_known", "_path", "_reads_only", "broken", "suspect", "wrote")

    def __init__(self, connection: sqlite3.Connection, path: Path, *, reads_only: bool = False) -> None:
        self._connection = connection
        self._cursor = connection.cursor()
        self._path = path
        self._reads_only = reads_only
        self._known: dict[str, bool] = {}
        self._admitted: dict[str, bool] = {}  # `_known` while open, else empty: one lookup checks both
        self.wrote = False
        """Whether there is something to undo: set by statements, reset by whoever starts a unit."""
        self.suspect = False
        """Whether a fault was seen that the connection may never forget."""
        self.broken: Error | None = None
        """Why SQLite rolled the whole transaction back under a unit, if it did."""

    def open(self) -> None:
        """Statements are allowed from here on."""
        self.broken = None
        self._admitted = self._known

    def shut(self) -> None:
        """The transaction is over; a handle somebody kept must not run statements outside it."""
        self._admitted = {}

    async def execute(self, sql: str, parameters: Sequence[Value] = ()) -> int:
        try:
            writes = self._admitted[sql]
        except KeyError:
            writes = self._admit(sql)
        try:
            changed = self._cursor.execute(sql, parameters).rowcount
        except Exception as error:  # noqa: BLE001 (every driver error is translated in one place)
            raise self._failed(error, sql) from None
        if writes:
            self.wrote = True
        return changed if changed > 0 else 0  # noqa: FURB136 (max() costs three times as much)

    async def execute_many(self, sql: str, rows: Iterable[Sequence[Value]]) -> int:
        try:
            writes = self._admitted[sql]
        except KeyError:
            writes = self._admit(sql)
        if writes:
            self.wrote = True  # beforehand: rows before a failing one stay
        try:
            changed = self._cursor.executemany(sql, rows).rowcount
        except Exception as error:  # noqa: BLE001
            raise self._failed(error, sql) from None
        return changed if changed > 0 else 0  # noqa: FURB136 (max() costs three times as much)

    async def fetch_all(self, sql: str, parameters: Sequence[Value] = ()) -> list[Row]:
        try:
            writes = self._admitted[sql]
        except KeyError:
            writes = self._admit(sql)
        try:
            rows = self._cursor.execute(sql, parameters).fetchall()
        except Exception as error:  # noqa: BLE001
            raise self._failed(error, sql) from None
        if writes:
            self.wrote = True  # INSERT ... RETURNING
        return rows

    async def fetch_one(self, sql: str, parameters: Sequence[Value] = ()) -> Row | None:
        try:
            writes = self._admitted[sql]
        except KeyError:
            writes = self._admit(sql)
        try:
            # A cursor of its own: it ends with this line, and with it the statement, though rows may be left.
            row = self._connection.execute(sql, parameters).fetchone()
        except Exception as error:  # noqa: BLE001
            raise self._failed(error, sql) from None
        if writes:
            self.wrote = True
        return cast("Row | None", row)

    def _admit(self, sql: str) -> bool:
        """Look at a statement for the first time; whether it writes."""
        if self.broken is not None:
            raise self.broken
        if self._admitted is not self._known:
            raise Internal(
                "a transaction handle was used after its unit ended; keep results, not the handle",
                code="transaction_over",
                sql=sql,
            )
        word = first_word(sql)
        if word in NOT_YOURS:
            raise not_yours(word, sql)
        writes = not is_reading(word)
        if writes and self._reads_only and word != "WITH":  # WITH may do either; `query_only` catches what writes
            raise reads_only_error(sql)
        if len(self._known) >= _REMEMBERED_MAX:
            self._known.clear()
        self._known[sql] = writes
        return writes

    def _failed(self, error: Exception, sql: str) -> Error:
        if self._reads_only and getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_READONLY:
            return reads_only_error(sql)
        translated = translate(error, self._path, sql)
        self.suspect = self.suspect or needs_reopening(error)
        if not self._connection.in_transaction and not self._reads_only:
            self.broken = translated
            self.shut()
        elif " OR FAIL" in sql.upper():
            self.wrote = True  # the only conflict rule that leaves half a statement behind
        return translated


def first_word(sql: str) -> str:
    """What a statement begins with, in capitals, comments aside."""
    match = _FIRST_WORD.match(sql)
    return match[1].upper() if match is not None else ""


def is_reading(word: str) -> bool:
    """Whether a statement that begins so changes nothing."""
    return word in _READS


def not_yours(word: str, sql: str) -> Internal:
    """The refusal of a statement that would interfere with how the store works."""
    return Internal(
        f"{word} is not a unit's business: a unit runs inside a transaction that the store begins and ends",
        code="statement_refused",
        sql=sql,
    )


def reads_only_error(sql: str) -> Internal:
    """The refusal of a write through a handle for reading."""
    return Internal("this handle only reads; writes belong into store.write(unit)", code="read_only_handle", sql=sql)


def drive(unit: Unit[R], tx: SqliteTx) -> R:
    """Run a unit to its end, now. Whatever it awaits beside its transaction is refused (`Internal`)."""
    awaitable = unit(tx)
    if type(awaitable) is CoroutineType:
        step = cast("CoroutineType[object, None, R]", awaitable)
    else:
        step = cast("CoroutineType[object, None, R]", _adapt(awaitable))
    try:
        step.send(None)
    except StopIteration as stop:
        return cast(R, stop.value)
    step.close()
    raise Internal(
        f"unit {describe(unit)} waited for something else than its transaction; await that before store.write",
        code="unit_suspended",
        unit=describe(unit),
    )


async def _adapt(awaitable: Awaitable[R]) -> R:
    """Something awaitable that is no coroutine becomes one."""
    return await awaitable


def describe(unit: object) -> str:
    """A unit's name for messages."""
    return getattr(unit, "__qualname__", None) or repr(unit)
