"""Group commit on a server: the same closed loop as for SQLite, where what is dear is the way there and back.

Units that arrive while a group is on its way ride in the next one. A group costs one round trip to begin and take the
turn, those of its units, and one to commit. The turn is a lock on the server: units read, decide in memory and write,
so those of several processes must not overlap, as SQLite's write lock sees to.

Most groups run without savepoints. When a unit fails after it wrote, the group is rolled back and run again with a
savepoint around each unit, and so are the next groups for a while. Deadlocks and lost connections before COMMIT are
nobody's fault: the group runs again, after deadlocks a little later and while there are tokens for it (`_reruns`). A
connection that breaks during COMMIT leaves the outcome unknown, and says so.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
import time
from collections import deque

from dougong.errors import Error, Overloaded, Unavailable
from dougong.store._dial import Dialer
from dougong.store._link import Engine, Link, Verdict
from dougong.store._meters import commit_seconds, faults, queued_units, rerun_tokens, reruns, units_per_commit
from dougong.store._pooling import PoolPolicy, lifetime_s
from dougong.store._reruns import Reruns
from dougong.store._server_tx import Driven, ServerTx, deadline
from dougong.store._tx import describe
from dougong.store._waiting import Outcome, Waiting, Writer, settle
from dougong.telemetry import get_logger

__all__ = ["ServerWriter", "judge"]

_log = get_logger("dougong.store")

GROUP_S_MAX = 0.02
"""Stop taking units into a group after this long: those that were first in it wait for all the others."""
SLOW_UNIT_S = 0.5
"""A unit that keeps the turn for longer is warned of."""
CAREFUL_GROUPS = 64
"""How many groups keep savepoints after one needed them."""
TRIES_MAX = 4
"""How often a group is run before its misfortune counts as a failure."""


class ServerWriter(Writer):
    """The writing side of a database on a server: one connection, one task while there is something to do."""

    def __init__(self, dialer: Dialer, link: Link, *, name: str, queued_max: int, group_max: int) -> None:
        super().__init__(asyncio.get_running_loop(), name=name, queued_max=queued_max)
        self._dialer = dialer
        self._engine = engine = dialer.engine
        self._link: Link | None = link
        self._until = self._loop.time() + _life_s(engine)
        self._tx = ServerTx(engine, link)
        self._group_max = group_max
        self._items: list[Waiting] = []
        self._task: asyncio.Task[None] | None = None
        self._careful = 0
        self._guarded = 0
        self._alone = 0
        self._tries = 0
        self._reruns = Reruns(random.random)

    def _wake(self) -> None:
        if self._task is None:  # else it looks again
            self._task = self._loop.create_task(self._run(), name=f"write {self._name}", context=contextvars.Context())

    async def close(self) -> None:
        """Accept nothing more, finish what was accepted, disconnect."""
        self._closing = True
        while self._task is not None:
            await asyncio.wait([self._task])
        if self._link is not None:
            self._link.abort()
            self._link = None

    async def _run(self) -> None:
        try:
            while self._queue:
                self._items = []
                await self._group(self._items)
                # After the callers just settled have run, so that what they send next is in the next group.
                await asyncio.sleep(0)
        except BaseException:  # the loop is being torn down under us: nobody may be left waiting
            if self._link is not None:
                self._link.abort()
            self._put_back(self._items)
            self._fail_waiting(Unavailable(f"store {self._name} was interrupted", code="commit_unknown"))
            raise
        finally:
            self._task = None

    # One group: begin → run units → commit → settle.

    async def _group(self, items: list[Waiting]) -> None:
        try:
            link = await self._begin()
        except Exception as error:  # noqa: BLE001 (whatever it is, those who wait have to hear of it)
            self._fail_waiting(self._note(judge(error, self._engine)))
            return
        try:
            outcomes, wrote = await self._run_units(link, items)
            if outcomes is not None:
                await self._commit(link, items, outcomes, wrote)
        except Exception as error:  # noqa: BLE001 (a savepoint or a rollback that failed; nothing was committed)
            self._tx.shut()
            await self._undone(items, judge(error, self._engine))

    async def _begin(self) -> Link:
        """A connection past BEGIN that has the turn. One that broke while it was idle, or is old, is replaced.

        BEGIN is the check that the pool makes for readers.
        """
        engine = self._engine
        while True:
            link = self._link
            if link is not None and self._loop.time() >= self._until:
                link.abort()
            fresh = link is None or not link.usable
            if link is None or fresh:
                link = await self._dialer.connect()
                self._link, self._tx = link, ServerTx(engine, link)
                self._until = self._loop.time() + _life_s(engine)
            link.guarded = False
            try:
                async with asyncio.timeout(engine.options.lock_timeout_s + engine.options.statement_timeout_s):
                    await link.control(engine.begin)
            except Exception as error:
                verdict = judge(error, engine)
                if verdict.lost:
                    link.abort()
                    if not fresh:
                        continue
                else:
                    await self._roll_back(link)
                raise verdict.fault from error
            return link

    async def _run_units(self, link: Link, items: list[Waiting]) -> tuple[list[Outcome] | None, bool]:
        """Run what waits; None when the group came to an end otherwise. `items` are those that ran."""
        queue, tx = self._queue, self._tx
        units_max = 1 if self._alone else self._group_max
        self._alone = max(self._alone - 1, 0)
        careful, link.guarded = self._careful > 0, self._guarded > 0
        self._careful = max(self._careful - 1, 0)
        self._guarded = max(self._guarded - 1, 0)
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
            if careful:
                mark = "RELEASE SAVEPOINT unit; SAVEPOINT unit" if len(items) > 1 else "SAVEPOINT unit"
                await self._control(link, mark)
            tx.wrote = False
            failure: BaseException | None = None
            result: object = None
            try:
                result = await Driven(unit, tx, context)
            except Exception as error:  # noqa: BLE001 (a unit's failure is its caller's)
                failure = error
            if tx.verdict is not None:
                tx.shut()
                await self._undone(items, tx.verdict)
                return None, False
            if tx.aborted is not None and (failure is None or tx.torn):
                # The unit caught what its statement raised; the server has to be told beforehand to bear with that.
                self._guarded = CAREFUL_GROUPS
                await self._again_carefully(link, items)
                return None, False
            if failure is None:
                wrote = wrote or tx.wrote
            elif careful:
                await self._control(link, "ROLLBACK TO SAVEPOINT unit")
                tx.open()
            elif tx.wrote or tx.aborted is not None:
                if len(items) > 1:
                    await self._again_carefully(link, items)
                else:  # nothing of anybody else's to lose: undo by ending the group here
                    tx.shut()
                    await self._roll_back(link)
                    settle(future, failure, None)
                return None, False
            outcomes.append((future, failure, result))
            before, now = now, time.perf_counter()
            if now - before > SLOW_UNIT_S:
                _log.warning(
                    "a unit kept the turn to write for long; touch fewer rows per unit",
                    unit=describe(unit),
                    store=self._name,
                    held_ms=round((now - before) * 1000),
                )
        tx.shut()
        queued_units.set(len(queue), self._name)
        return outcomes, wrote

    async def _commit(self, link: Link, items: list[Waiting], outcomes: list[Outcome], wrote: bool) -> None:
        started = time.perf_counter()
        try:
            await self._control(link, "COMMIT")
        except Exception as error:  # noqa: BLE001
            verdict = judge(error, self._engine)
            if verdict.lost:
                link.abort()
                if wrote:
                    self._fail(items, self._note(_unknown(verdict.fault, self._engine, len(items))))
                    return
                verdict = verdict._replace(again=True)  # nothing was written, so nothing can be half known
            else:
                await self._roll_back(link)
            if verdict.deferred and len(items) > 1:
                self._alone = len(items)
                self._put_back(items)
            elif verdict.again:
                await self._undone(items, verdict)
            else:  # the whole group is lost: nothing of it is kept, everybody hears why
                self._fail(items, self._note(verdict))
            return
        if wrote:
            commit_seconds.observe(time.perf_counter() - started, self._name)
            units_per_commit.observe(len(items), self._name)
            self.fault = None
        self._tries = 0
        self._reruns.succeeded(len(items))
        rerun_tokens.set(self._reruns.tokens, self._name)
        for future, failure, result in outcomes:
            settle(future, failure, result)

    # Ways in which a group ends without a commit. Everything is undone then; the question is who hears what.

    async def _again_carefully(self, link: Link, items: list[Waiting]) -> None:
        self._tx.shut()
        self._careful = CAREFUL_GROUPS
        await self._roll_back(link)
        self._put_back(items)

    async def _undone(self, items: list[Waiting], verdict: Verdict) -> None:
        """The server took the transaction back. Run it again, unless that was tried often enough."""
        if self._link is not None:
            if verdict.lost:
                self._link.abort()
            else:
                await self._roll_back(self._link)
        self._tries += 1
        code = verdict.fault.code
        over = code == "statement_timeout" or not (verdict.again or verdict.lost) or self._tries >= TRIES_MAX
        # The last one was running when it happened. When it was tried often enough, its neighbours go on, one by one,
        # in case it was not to blame.
        rerun = len(items) - over
        if code == "deadlock":
            if not self._reruns.spend(rerun):
                self._fail(items, self._note(Verdict(self._storm(verdict.fault))))
                return
            rerun_tokens.set(self._reruns.tokens, self._name)
            if not over:
                # Nothing is held meanwhile. Whoever comes now waits with the group, and rides in it.
                await asyncio.sleep(self._reruns.wait_s(self._tries))
        reruns.inc(rerun, self._name, code)
        if over:
            self._tries = 0
            future, _, _ = items.pop()
            settle(future, self._note(verdict if code != "deadlock" else Verdict(_deadlock(verdict.fault))), None)
            self._alone = len(items)
        else:
            _log.info("a group runs again", store=self._name, code=code, units=len(items))
        self._put_back(items)

    def _storm(self, fault: Error) -> Error:
        return Overloaded(
            f"{fault.message}; store {self._name} has had so many deadlocks that it runs nothing again until more"
            " succeeds: send less or later, and let all who write these rows lock them in one order",
            code="deadlock_storm",
            retry_after_s=1.0,
            store=self._name,
        )

    def _put_back(self, items: list[Waiting]) -> None:
        self._queue.extendleft(reversed(items))

    def _fail(self, items: list[Waiting], fault: Error) -> None:
        self._tries = 0
        for future, _, _ in items:
            settle(future, fault, None)

    def _fail_waiting(self, fault: Error) -> None:
        waiting, self._queue = self._queue, deque()
        self._fail(list(waiting), fault)

    async def _control(self, link: Link, sql: str) -> None:
        async with asyncio.timeout(self._engine.options.statement_timeout_s + 1.0):
            await link.control(sql)

    async def _roll_back(self, link: Link) -> None:
        if not link.usable:
            return
        try:
            await self._control(link, "ROLLBACK")
        except Exception:  # noqa: BLE001
            link.abort()  # that undoes it, too

    def _note(self, verdict: Verdict) -> Error:
        fault = verdict.fault
        if isinstance(fault, Unavailable):
            self.fault = fault
        faults.inc(1, self._name, fault.code)
        return fault


def _life_s(engine: Engine) -> float:
    return lifetime_s(PoolPolicy(life_s=engine.options.life_s), random.random)


def judge(error: BaseException, engine: Engine) -> Verdict:
    """What an error outside of any unit's statement means."""
    return deadline(error, engine, "") or engine.judge(error)


def _deadlock(fault: Error) -> Error:
    return Unavailable(
        f"{fault.message}; undone {TRIES_MAX} times: let all who write these rows lock them in one order, or try later",
        code="deadlock",
        retry_after_s=0.1,
    )


def _unknown(fault: Error, engine: Engine, units: int) -> Verdict:
    return Verdict(
        Unavailable(
            f"database {engine.options.where}: the connection broke while {units} units were being committed"
            f" ({fault.message}); they are kept all or none: look before repeating what is not idempotent",
            code="commit_unknown",
        ),
        lost=True,
    )
