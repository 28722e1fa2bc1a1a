"""A transaction handle over a connection to a server, and the driver that watches what a unit waits for.

A unit holds the database's only turn to write, so it may wait for its transaction and for nothing else. `Unit` steps
are driven by hand: whatever a unit yields while no statement of its handle is under way is refused, as on SQLite.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from typing import Any, Generic, TypeVar

from dougong.errors import Error, Internal, Unavailable
from dougong.store._link import Engine, Link, Verdict
from dougong.store._protocol import Row, Unit, Value
from dougong.store._tx import describe, first_word, is_reading, not_yours, reads_only_error

__all__ = ["Driven", "ServerTx", "deadline"]

R = TypeVar("R")
_REMEMBERED_MAX = 4096


class ServerTx:
    """`Tx` on one connection. Serves one unit after another; `open` and `shut` say when statements are allowed."""

    __slots__ = ("_engine", "_known", "_link", "_open", "_reads_only", "aborted", "busy", "torn", "verdict", "wrote")

    def __init__(self, engine: Engine, link: Link, *, reads_only: bool = False) -> None:
        self._engine = engine
        self._link = link
        self._reads_only = reads_only
        self._known: dict[str, bool] = {}
        self._open = False
        self.busy = False
        """Whether a statement is under way."""
        self.wrote = False
        """Whether there is something to undo: set by statements, reset by whoever starts a unit."""
        self.verdict: Verdict | None = None
        """Why the whole transaction is gone, if it is."""
        self.aborted: Error | None = None
        """The failed statement after which the server refuses all others, if there was one."""
        self.torn = False
        """Whether a unit went on after that: what it then saw was not what the database would have said."""

    def open(self) -> None:
        """Statements are allowed from here on."""
        self.verdict = self.aborted = None
        self.torn = False
        self._open = True

    def shut(self) -> None:
        """The transaction is over; a handle somebody kept must not run statements outside it."""
        self._open = False

    async def execute(self, sql: str, parameters: Sequence[Value] = ()) -> int:
        return await self._run(sql, self._link.execute, parameters)

    async def execute_many(self, sql: str, rows: Iterable[Sequence[Value]]) -> int:
        listed = rows if isinstance(rows, list) else list(rows)
        if not listed:
            return 0
        if self._admit(sql):
            self.wrote = True  # beforehand: rows before a failing one may stay
        return await self._run(sql, self._link.execute_many, listed)

    async def fetch_all(self, sql: str, parameters: Sequence[Value] = ()) -> list[Row]:
        return await self._run(sql, self._link.fetch, parameters)

    async def fetch_one(self, sql: str, parameters: Sequence[Value] = ()) -> Row | None:
        rows = await self._run(sql, self._link.fetch, parameters)
        return rows[0] if rows else None

    async def _run(self, sql: str, call: Callable[[str, Any], Awaitable[R]], parameters: Any) -> R:
        writes = self._admit(sql)
        self.busy = True
        self._link.last_sql = sql
        try:
            async with asyncio.timeout(self._engine.options.statement_timeout_s + 1.0):
                result = await call(sql, parameters)
        except Exception as error:  # noqa: BLE001 (every driver error is translated in one place)
            raise self._failed(error, sql) from None
        except BaseException:
            self._link.abort()  # cut short: its answer is still on the way, and would be the next one's
            raise
        finally:
            self.busy = False
        if writes:
            self.wrote = True
        return result

    def _admit(self, sql: str) -> bool:
        """Whether a statement may run and writes."""
        if not self._open or self.verdict is not None or self.aborted is not None or self.busy:
            self._refuse(sql)
        known = self._known.get(sql)
        if known is not None:
            return known
        word = first_word(sql)
        if word in self._engine.refused:
            raise not_yours(word, sql)
        writes = not is_reading(word)
        if writes and self._reads_only and word != "WITH":  # WITH may do either; the server catches what writes
            raise reads_only_error(sql)
        if len(self._known) >= _REMEMBERED_MAX:
            self._known.clear()
        self._known[sql] = writes
        return writes

    def _refuse(self, sql: str) -> None:
        if self.verdict is not None:
            raise self.verdict.fault
        if self.aborted is not None:
            self.torn = True
            raise self.aborted
        if self.busy:
            raise Internal("two statements of one transaction at once; await one after the other", code="nested_call")
        raise Internal(
            "a transaction handle was used after its unit ended; keep results, not the handle",
            code="transaction_over",
            sql=sql,
        )

    def _failed(self, error: Exception, sql: str) -> Error:
        verdict = deadline(error, self._engine, sql) or self._engine.judge(error, sql)
        if self._reads_only and verdict.fault.code == "read_only_handle":
            return reads_only_error(sql)
        if verdict.lost:
            self._link.abort()
        if verdict.lost or verdict.again:
            self.verdict = verdict
        elif self._link.failed:
            self.aborted = verdict.fault
        return verdict.fault


def deadline(error: BaseException, engine: Engine, sql: str) -> Verdict | None:
    """A statement took longer than it may; its connection is not used again."""
    if not isinstance(error, TimeoutError):
        return None
    seconds = engine.options.statement_timeout_s
    return Verdict(
        Unavailable(
            f"database {engine.options.where}: no answer within {seconds:g} s; ask for less at once, or raise"
            " statement_timeout_s in its URL",
            code="statement_timeout",
            sql=sql,
        ),
        lost=True,
    )


class Driven(Generic[R]):
    """`await Driven(unit, tx, context)`: a unit to its end, in its caller's context."""

    __slots__ = ("_context", "_tx", "_unit")

    def __init__(self, unit: Unit[R], tx: ServerTx, context: contextvars.Context) -> None:
        self._unit = unit
        self._tx = tx
        self._context = context

    def __await__(self) -> Generator[Any, Any, R]:
        run, tx = self._context.run, self._tx
        try:
            steps = run(self._unit, tx).__await__()
            waits = run(next, steps)
            while tx.busy:
                try:
                    yield waits
                except BaseException as error:  # noqa: BLE001 (a deadline; the statement inside has to hear of it)
                    waits = run(steps.throw, error)
                else:
                    waits = run(next, steps)
        except StopIteration as stop:
            result: R = stop.value
            return result
        _close(steps)
        raise Internal(
            f"unit {describe(self._unit)} waited for something else than its transaction; await that before"
            " store.write",
            code="unit_suspended",
            unit=describe(self._unit),
        )


def _close(steps: Generator[Any, Any, Any]) -> None:
    try:  # an awaitable's iterator need not be a generator
        getattr(steps, "close", _nothing)()
    except Exception:  # noqa: BLE001, S110 (it is being thrown away; what it says on the way out is of no use)
        pass


def _nothing() -> None:
    pass
