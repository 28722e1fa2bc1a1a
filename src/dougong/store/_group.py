"""Group commit: one writer, closed loop, no timer.

Units that arrive while a commit is being synced ride in the next one, so the group grows with the load by itself: a
lone caller pays one sync and one thread hop, a thousand callers share one. Statements run on the loop; only COMMIT (the
sync) and waiting for another process's lock happen in the worker thread. One pass per group settles all callers; a unit
costs no task and no timer.

A group first runs without savepoints. When a unit fails after it wrote, the group is rolled back and run again with a
savepoint around each unit, and so are the next groups for a while: savepoints cost half again as much per unit, and
units that fail usually fail before they write.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dougong.errors import Error, Unavailable
from dougong.store._faults import is_deferred_violation, needs_reopening, translate
from dougong.store._meters import commit_seconds as _seconds
from dougong.store._meters import faults as _faults
from dougong.store._meters import queued_units as _queued
from dougong.store._meters import units_per_commit as _units
from dougong.store._protocol import Unit
from dougong.store._turns import Turnstile
from dougong.store._tx import SqliteTx, describe, drive
from dougong.store._waiting import Outcome, Waiting, Writer, settle
from dougong.store._worker import Worker
from dougong.telemetry import get_logger

__all__ = ["GroupWriter", "warn_slow"]

_log = get_logger("dougong.store")

GROUP_S_MAX = 0.005
"""Stop taking units into a group after this long on the loop: others want the loop, too."""
SLOW_UNIT_S = 0.05
"""A unit that holds the loop for longer is warned of."""
CAREFUL_GROUPS = 64
"""How many groups keep savepoints after one needed them."""


class GroupWriter(Writer):
    """The writing side of one SQLite database."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        worker: Worker,
        connect: Callable[[], sqlite3.Connection],
        connection: sqlite3.Connection,
        path: Path,
        *,
        name: str,
        queued_max: int,
        group_max: int,
        lock_timeout_s: float,
    ) -> None:
        super().__init__(loop, name=name, queued_max=queued_max)
        self._worker = worker
        self._connect = connect
        self._connection = connection
        self._tx = SqliteTx(connection, path)
        self._path = path
        self._group_max = group_max
        self._lock_timeout_s = lock_timeout_s
        self._turnstile = Turnstile(path)
        self._outcomes: list[Outcome] = []
        self._running: list[Waiting] = []
        self._busy = False
        self._syncing_since = 0.0
        self._stale = False
        self._careful = 0
        self._alone = 0
        self._idle: asyncio.Future[None] | None = None

    def _wake(self) -> None:
        if not self._busy:
            self._busy = True
            self._loop.call_soon(self._begin)

    async def drain(self) -> None:
        """Accept nothing more, finish what was accepted."""
        self._closing = True
        while self._busy:
            if self._idle is None:
                self._idle = self._loop.create_future()
            await asyncio.shield(self._idle)

    def shut(self) -> None:
        """Close the connection; after `drain`, in the worker's thread."""
        self._connection.close()
        self._turnstile.close()

    # One group: begin → run units → commit → settle. Each arrow is a plain call or a callback from the worker.

    def _begin(self) -> None:
        if self._stale:
            self._worker.submit(self._reopen_and_begin, self._begun)
            return
        try:
            free = self._turnstile.begin(self._connection)
        except sqlite3.Error as error:
            self._begun(error)
            return
        if free:
            self._run_group()
        else:
            self._worker.submit(self._begin_patiently, self._begun)

    def _begin_patiently(self) -> None:
        """In the thread: another process writes; wait for it."""
        self._turnstile.begin_patiently(self._connection, self._lock_timeout_s)

    def _reopen_and_begin(self) -> None:
        """In the thread: the old connection saw a fault that it may never forget."""
        fresh = self._connect()
        self._connection.close()
        self._connection = fresh
        self._tx = SqliteTx(fresh, self._path)
        self._stale = False
        self._begin_patiently()

    def _begun(self, error: Exception | None) -> None:
        if error is None:
            self._run_group()
            return
        fault = self._note(error)
        waiting, self._queue = self._queue, deque()
        for future, _, _ in waiting:
            if not future.done():
                future.set_exception(fault)
        self._next()

    def _run_group(self) -> None:
        items: list[Waiting] = []
        try:
            self._run_units(items)
        except Exception as error:  # noqa: BLE001 (a savepoint or commit that SQLite refused; the writer must go on)
            self._fail(items, error)

    def _run_units(self, items: list[Waiting]) -> None:
        queue, tx, execute = self._queue, self._tx, self._connection.execute
        units_max = 1 if self._alone else self._group_max
        self._alone = max(self._alone - 1, 0)
        savepoints = self._careful > 0 and units_max > 1 and len(queue) > 1
        self._careful -= savepoints
        outcomes: list[Outcome] = []
        wrote = False
        now = time.perf_counter()
        until = now + GROUP_S_MAX
        tx.open()
        while queue and len(items) < units_max and (now < until or not items):
            item = queue.popleft()
            future, unit, context = item
            if future.done():  # its caller went away before it began
                continue
            items.append(item)
            tx.wrote = False
            failure: BaseException | None = None
            result: object = None
            try:
                if savepoints:
                    execute("SAVEPOINT unit")
                result = context.run(drive, unit, tx)
            except (KeyboardInterrupt, SystemExit) as error:  # meant for the process, not for who writes just now
                self._loop.call_soon(_raise, error)
                failure = Unavailable(f"store {self._name}: the process is interrupted", code="interrupted")
            except BaseException as error:  # noqa: BLE001 (a unit's failure is its caller's)
                failure = error
            if tx.broken is not None:
                self._stale = self._stale or tx.suspect
                self._rolled_back_under(items, tx.broken)
                return
            if failure is None:
                wrote = wrote or tx.wrote
                if savepoints:
                    execute("RELEASE unit")
            elif savepoints:
                execute("ROLLBACK TO unit")
                execute("RELEASE unit")
            elif tx.wrote:
                if len(items) == 1:
                    # Nothing of anybody else's to lose: undo by ending the group here.
                    tx.shut()
                    self._roll_back()
                    settle(future, failure, None)
                    self._next()
                else:
                    self._careful = CAREFUL_GROUPS
                    self._again(items)
                return
            outcomes.append((future, failure, result))
            before, now = now, time.perf_counter()
            if now - before > SLOW_UNIT_S:
                warn_slow(self._name, unit, now - before)
        tx.shut()
        if tx.suspect:
            tx.suspect = False
            self._stale = True
        _queued.set(len(queue), self._name)
        self._commit(items, outcomes, wrote)

    def _rolled_back_under(self, items: list[Waiting], fault: Error) -> None:
        """A statement took the whole transaction with it (full disk, OR ROLLBACK): only its own unit fails for that.

        And only when it was alone: beside others it may have met what one of them wrote and will not keep.
        """
        if len(items) == 1:
            future, _, _ = items.pop()
            settle(future, fault, None)
        self._alone = len(items)
        self._again(items)

    def _again(self, items: list[Waiting]) -> None:
        """Put units back where they were and start over."""
        self._tx.shut()
        self._roll_back()
        self._queue.extendleft(reversed(items))
        self._next()

    def _commit(self, items: list[Waiting], outcomes: list[Outcome], wrote: bool) -> None:
        self._running, self._outcomes = items, outcomes
        if not wrote:  # nothing to sync, so nothing that could block
            self._connection.execute("COMMIT")
            self._committed(None)
            return
        self._syncing_since = time.perf_counter()
        self._worker.submit(self._sync, self._committed)

    def _sync(self) -> None:
        """In the thread: the one call of a group that waits for the disk."""
        self._connection.execute("COMMIT")

    def _committed(self, error: Exception | None) -> None:
        items, outcomes = self._running, self._outcomes
        self._running, self._outcomes = [], []
        if error is None:
            if self._syncing_since:
                _seconds.observe(time.perf_counter() - self._syncing_since, self._name)
                _units.observe(len(items), self._name)
                self._syncing_since = 0.0
                self.fault = None
            for future, failure, result in outcomes:
                if not future.done():
                    if failure is None:
                        future.set_result(result)
                    else:
                        future.set_exception(failure)
            self._next()
            return
        if is_deferred_violation(error) and len(items) > 1:
            self._alone = len(items)
            self._again(items)
            return
        self._fail(items, error)

    def _fail(self, items: list[Waiting], error: Exception) -> None:
        """The whole group is lost: nothing of it is kept, everybody hears why."""
        self._tx.shut()
        self._roll_back()
        fault = self._note(error)
        for future, _, _ in items:
            settle(future, fault, None)
        self._next()

    def _roll_back(self) -> None:
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error:
            self._stale = True  # closing the connection undoes it, too

    def _next(self) -> None:
        if self._queue:
            # After the callers just settled have run, so that what they send next is in this group.
            self._loop.call_soon(self._begin)
            return
        self._busy = False
        if self._idle is not None:
            self._idle.set_result(None)
            self._idle = None

    def _note(self, error: Exception) -> Error:
        fault = translate(error, self._path)
        if isinstance(fault, Unavailable):
            self.fault = fault
        _faults.inc(1, self._name, fault.code)
        self._stale = self._stale or needs_reopening(error)
        return fault


def warn_slow(store: str, unit: Unit[Any], seconds: float) -> None:
    """Statements run on the loop: a long unit makes everybody wait, so it is named."""
    if seconds > SLOW_UNIT_S:
        _log.warning(
            "a unit held the loop; touch fewer rows per unit",
            unit=describe(unit),
            store=store,
            held_ms=round(seconds * 1000),
        )


def _raise(error: BaseException) -> None:
    raise error
