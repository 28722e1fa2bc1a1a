"""The coordinator: log, try, decide, acknowledge; telling participants comes after.

Per run two local units and one call per participant. Nothing here is per transaction that can be per batch: the common
case (everybody said yes) touches each transaction in a handful of list operations.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import math
import os
import random as _random
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import cast

from dougong.clock import Clock, SystemClock
from dougong.errors import Conflict, Error, Invalid, NotFound, Overloaded, Unavailable
from dougong.store import Store, Tx, migrations_from
from dougong.tcc._protocol import TransactionState
from dougong.tcc.deciding import Decide, Decider, Raced, decision_of
from dougong.tcc.guarded import GuardedClient
from dougong.tcc.log import NEVER_US, BranchSets, Log, LogRow, NewRow
from dougong.tcc.messages import Messenger
from dougong.tcc.operator import Operator
from dougong.tcc.recovery import Recovery
from dougong.tcc.settings import CoordinatorSettings
from dougong.tcc.settler import Settler
from dougong.tcc.sides import Side, digests_of, sides_of
from dougong.tcc.transaction import Decision, NewTransaction, Outcome
from dougong.tcc.trying import Trying
from dougong.tcc.wire import ParticipantClient
from dougong.telemetry import counter, get_logger, span

__all__ = ["Coordinator"]

T = TransactionState
Begin = Callable[[Tx], Awaitable[None]]
Also = Callable[[Tx, Sequence[Decision]], Awaitable[None]]
_log = get_logger("dougong.tcc")
_decided = counter("dougong_tcc_transactions_total", "Transactions decided by a run.", labels=("initiator", "outcome"))

DECIDED_POLL_S = 0.02


class Coordinator:
    """Runs transactions over participants, each either confirmed with all of them or cancelled with all of them.

    - `store`: the initiator's database; the log lives in it, beside the initiator's own tables.
    - `initiator`: its name, for good: participants know its transactions by it.
    - `participants`: service name → the `ParticipantService` itself, or a client of it. One that may have several
      branches in a transaction (who pays, who is paid) has a name for each: `Wallets.service + "#payee"`.
    - `decide`: writes the initiator's rows for decisions, in the unit that logs them. It is given here and not per run,
      since a transaction left over by a crash is decided by recovery, with the same code. It gets each transaction's
      decision exactly once (of one that is held, that first, with `held`), may run again if its unit does, and must not
      fail for a decision it does not like.
    """

    def __init__(
        self,
        store: Store,
        *,
        initiator: str,
        participants: Mapping[str, ParticipantClient],
        decide: Decide | None = None,
        clock: Clock | None = None,
        settings: CoordinatorSettings | None = None,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self._store = store
        self._initiator = initiator
        self._clock = clock = clock if clock is not None else SystemClock()
        self._settings = settings = settings if settings is not None else CoordinatorSettings()
        self._participants = {
            name: GuardedClient(name, client, settings.breaker, clock, fair_s=settings.try_timeout_s / 2)
            for name, client in participants.items()
        }
        self._log = Log()
        self._branch_sets = BranchSets()
        self._decider = Decider(self._log, decide, self._announce if settings.triggers.message else None)
        self._operator = Operator(store)
        self._trying = Trying(initiator, self._participants, settings, self._stamp_us)
        self._settler = Settler(
            store,
            self._log,
            clock,
            initiator,
            self._participants,
            stamp_us=self._stamp_us,
            random=random,
            schedule=settings.retry,
            max_batch=settings.max_batch,
            calls_in_flight=settings.calls_in_flight,
            gather_s=settings.settle_gather_s,
            timeout_s=settings.settle_timeout_s,
            lease_s=settings.lease_s,
        )
        self._recovery = Recovery(
            store,
            self._log,
            self._branch_sets,
            self._decider,
            self._settler,
            clock,
            initiator,
            self._participants,
            owner=f"{initiator}-{os.getpid()}-{int(random() * 1e9):09d}",
            stamp_us=self._stamp_us,
            observe_us=self._observe_us,
            try_timeout_s=settings.try_timeout_s,
            unfinished_max=settings.unfinished_max,
            lease_s=settings.lease_s,
            longest_s=max(settings.retry.longest_s, settings.try_timeout_s + settings.grace_s),
            hold_s_max=settings.hold_s_max,
            scan_every_s=settings.scan_every_s,
            retention_s=settings.retention_s,
            forget_every_s=settings.forget_every_s,
        )
        self._messenger = Messenger(
            store,
            self._log,
            self._recovery,
            clock,
            schedule=settings.message_retry,
            delay_s=settings.message_delay_s if settings.triggers.call else 0.0,
            random=random,
        )
        self._last_us = 0
        self._running = 0
        """Transactions in runs under way."""
        self._runs: set[asyncio.Task[object]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = False

    async def start(self) -> None:
        """Prepare the log, take over what is overdue, and be ready. `Invalid` when the log is another initiator's."""
        await self._store.migrate("dougong.tcc.log", migrations_from("dougong.tcc.migrations.log"))
        floor_us = await self._store.write(lambda tx: self._log.open(tx, self._initiator))
        await self._store.read(self._branch_sets.load)
        self._last_us = floor_us + 1
        await self._messenger.start()
        self._settler.start(self._spawn)
        if self._settings.triggers.scan:
            self._spawn(self._recovery.scan())
        if self._settings.triggers.message:
            self._spawn(self._messenger.deliver())
        self._spawn(self._recovery.forget())
        self._open = True

    async def stop(self) -> None:
        """Take no more, finish runs under way, settle what can be settled soon; the rest is in the log."""
        self._open = False
        if self._runs:
            await asyncio.wait(self._runs, timeout=self._settings.try_timeout_s + self._settings.grace_s)
        await self._settler.drain(self._settings.drain_s)
        tasks: list[asyncio.Task[object]] = [*self._tasks, *self._runs]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._trying.close()

    async def run(self, transactions: Sequence[NewTransaction], *, begin: Begin | None = None) -> Sequence[Outcome]:
        """Decide transactions; one outcome each, in order. When it returns, the decisions are durable.

        `begin` writes the initiator's own rows in the unit that logs the transactions. An id that was run before gives
        its original outcome (`Conflict` code `payload_mismatch` if it was another transaction), and `begin` is not
        called; ids run before and new ones do not mix in a run with `begin` (`Conflict` code `mixed_run`).

        Raises what `begin` raised (nothing happened then), `Overloaded`, or `Unavailable` from the database: if that
        happens after the log was written, recovery cancels the transactions. A caller that is cancelled stops waiting;
        the run goes on.
        """
        return await self._start(transactions, begin, None)

    async def hold(
        self, transactions: Sequence[NewTransaction], *, expires_s: float, begin: Begin | None = None
    ) -> Sequence[Outcome]:
        """Like `run`, but what every participant accepted is held, until `confirm`, `cancel`, or for `expires_s`.

        For what takes somebody else's word, such as an external payment. An outcome that is accepted says `held`; a
        hold whose time is over is cancelled with code `expired`, and `decide` is told so. With `math.inf` it ends by
        somebody's word only.
        """
        if not 0 < expires_s <= self._settings.hold_s_max and expires_s != math.inf:
            raise Invalid(
                f"a hold of {expires_s} s; it must be more than 0 and at most {self._settings.hold_s_max} (hold_s_max)",
                code="bad_hold",
            )
        return await self._start(transactions, begin, expires_s)

    async def confirm(self, transactions: Sequence[int], *, also: Also | None = None) -> Sequence[Outcome]:
        """Make held transactions final. One outcome each, in order: accepted, or what was decided before.

        `also` writes the initiator's rows in the unit that decides, and gets the decisions that are this call's: not
        those of transactions that a timeout, a `cancel` or an earlier `confirm` has decided. Raising undoes the unit.
        Raises `NotFound` (`unknown_transaction`) and `Conflict` (`not_held`, one that is still being tried), and
        decides nothing then.
        """
        return _all(await self.release([Decision(t, True) for t in transactions], also=also, strict=True))

    async def cancel(
        self,
        transactions: Sequence[int],
        *,
        code: str = "cancelled",
        message: str = "cancelled by the initiator",
        also: Also | None = None,
    ) -> Sequence[Outcome]:
        """Give held transactions back, with a code and message for their outcomes. Else like `confirm`."""
        decisions = [Decision(t, False, code, message) for t in transactions]
        return _all(await self.release(decisions, also=also, strict=True))

    async def _start(
        self, transactions: Sequence[NewTransaction], begin: Begin | None, expires_s: float | None
    ) -> Sequence[Outcome]:
        if not transactions:
            return []
        self._check_open()
        unfinished = self._running + len(self._settler)
        if unfinished and unfinished + len(transactions) > self._settings.unfinished_max:
            raise Overloaded(
                f"{unfinished} transactions of {self._initiator} are unfinished: is a participant down?",
                code="too_many_unfinished",
                retry_after_s=1.0,
            )
        sides = sides_of(transactions, self._participants)
        self._running += len(transactions)
        task = asyncio.create_task(self._run(transactions, sides, begin, expires_s))
        self._runs.add(task)
        task.add_done_callback(functools.partial(self._ran, len(transactions)))
        return await asyncio.shield(task)

    async def state(self, transaction: int) -> TransactionState | None:
        """Where a transaction stands; None when the log does not (or no longer) have it."""
        return await self._operator.state(transaction)

    @property
    def operator(self) -> Operator:
        """List, show, retry and cancel, as a person would."""
        return self._operator

    async def _run(
        self,
        transactions: Sequence[NewTransaction],
        sides: dict[str, Side],
        begin: Begin | None,
        expires_s: float | None,
    ) -> Sequence[Decision]:
        with span("tcc.run", initiator=self._initiator, items=len(transactions)):
            rows = await self._rows(transactions, sides)

            async def log_and_begin(tx: Tx) -> None:
                if not await self._log.insert(tx, rows):
                    raise Raced
                if begin is not None:
                    await begin(tx)

            try:
                await self._store.write(log_and_begin)
            except Raced:
                return await self._run_again(transactions, rows, begin, expires_s)
            decisions, held = await self._trying.ask(transactions, sides, held=expires_s is not None)
            return await self._decide(decisions, held, sides, expires_s)

    async def _decide(
        self,
        decisions: Sequence[Decision],
        holding: dict[str, list[int]],
        sides: dict[str, Side],
        expires_s: float | None,
    ) -> Sequence[Decision]:
        """Make it durable, hand it to phase 2, and only then let the caller know."""
        held = {decisions[i].transaction for positions in holding.values() for i in positions}
        expires_us = None if expires_s is None else self._expires_us(expires_s)
        try:
            await self._store.write(lambda tx: self._decider.write(tx, decisions, held, expires_us=expires_us))
            stands: Sequence[Decision] = decisions
        except Raced:  # cancelled by an operator, or by recovery because time ran out
            stands = await self._store.write(
                lambda tx: self._decider.write_open(tx, decisions, held, expires_us=expires_us)
            )
        confirm: dict[str, Sequence[int]] = {}
        cancel: dict[str, Sequence[int]] = {}
        if stands is decisions and not any(not d.accepted for d in decisions):
            _decided.inc(len(decisions), self._initiator, "accepted" if expires_us is None else "held")
            if expires_us is None:
                for name, side in sides.items():
                    confirm[name] = [t for t, _ in side.items]
        else:
            mine = [stands[i] is decisions[i] for i in range(len(decisions))]
            if expires_us is None:
                for name, side in sides.items():
                    confirm[name] = [
                        decisions[i].transaction for i in side.positions if mine[i] and decisions[i].accepted
                    ]
            for name, positions in holding.items():
                cancel[name] = [decisions[i].transaction for i in positions if mine[i]]
            self._count(stands)
        if self._settings.triggers.call:
            self._settler.add(T.CONFIRMING, confirm)
            if cancel:
                self._settler.add(T.CANCELLING, cancel)
        else:
            self._messenger.wake()
        return stands

    async def release(
        self, decisions: Sequence[Decision], *, also: Also | None = None, strict: bool = False
    ) -> Sequence[Decision | Error]:
        """Decide what is held, each its own way, and hand it to phase 2. What `confirm` and `cancel` are made of.

        What cannot be released (see `confirm`) has an error as its outcome; when `strict`, it is raised instead.
        """
        if not decisions:
            return []
        self._check_open()
        task = asyncio.create_task(self._release(decisions, also, strict=strict))
        self._runs.add(task)
        task.add_done_callback(functools.partial(self._ran, 0))
        return await asyncio.shield(task)

    async def _release(
        self, decisions: Sequence[Decision], also: Also | None, *, strict: bool
    ) -> Sequence[Decision | Error]:
        async def unit(tx: Tx) -> tuple[dict[int, LogRow], list[Decision]]:
            due_us = self._clock.now_us() + int(self._settings.lease_s * 1e6)
            rows, mine = await self._decider.release(tx, decisions, due_us)
            if strict:
                for decision in decisions:
                    if isinstance(error := _stands(decision.transaction, rows), Error):
                        raise error
            if also is not None:
                await also(tx, mine)
            return rows, mine

        with span("tcc.release", initiator=self._initiator, items=len(decisions)):
            rows, mine = await self._store.write(unit)
        self._count(mine)
        if self._settings.triggers.call:
            moved = [rows[d.transaction].moved(T.CONFIRMING if d.accepted else T.CANCELLING) for d in mine]
            await self._recovery.learn(moved)
            self._recovery.settle(moved)
        else:
            self._messenger.wake()
        stands = {d.transaction: d for d in mine}
        return [stands.get(d.transaction) or _stands(d.transaction, rows) for d in decisions]

    def _expires_us(self, expires_s: float) -> int:
        return NEVER_US if expires_s == math.inf else self._clock.now_us() + int(expires_s * 1e6)

    def _count(self, decisions: Sequence[Decision]) -> None:
        for decision in decisions:
            outcome = ("held" if decision.held else "accepted") if decision.accepted else decision.code
            known = outcome in {"accepted", "held", "unavailable", "expired"}
            _decided.inc(1, self._initiator, outcome if known else "refused")

    async def _announce(self, tx: Tx, ids: Sequence[int]) -> None:
        await self._messenger.put(tx, ids)

    def _check_open(self) -> None:
        if not self._open:
            raise Unavailable("the coordinator is not running", code="closed")

    async def _run_again(
        self,
        transactions: Sequence[NewTransaction],
        rows: Sequence[NewRow],
        begin: Begin | None,
        expires_s: float | None,
    ) -> Sequence[Decision]:
        """Some of these ids were run before."""
        ids = [t.id for t in transactions]
        known = await self._store.read(lambda tx: self._log.rows(tx, ids))
        for row in rows:
            if row[0] in known and known[row[0]].digest != row[2]:
                raise Conflict(
                    f"transaction {row[0]} was run before with other payloads; a new transaction needs a new id",
                    code="payload_mismatch",
                    transaction=row[0],
                )
        fresh = [t for t in transactions if t.id not in known]
        if fresh and begin is not None:
            raise Conflict(
                f"{len(fresh)} of {len(ids)} transactions are new, the others were run before, so begin can be neither "
                f"called nor left out; run them apart",
                code="mixed_run",
            )
        stands: dict[int, Decision] = {}
        if fresh:
            for decision in await self._run(fresh, sides_of(fresh, self._participants), None, expires_s):
                stands[decision.transaction] = decision
        waiting = [t for t in ids if t in known]
        patience_s = self._settings.try_timeout_s + self._settings.grace_s + 2 * self._settings.scan_every_s
        for _ in range(int(patience_s / DECIDED_POLL_S) + 1):
            for transaction, row_ in known.items():
                decision_ = decision_of(row_)
                if decision_ is not None:
                    stands[transaction] = decision_
            waiting = [t for t in waiting if t not in stands]
            if not waiting:
                return [stands[t] for t in ids]
            await asyncio.sleep(DECIDED_POLL_S)
            known = await self._store.read(lambda tx, w=waiting: self._log.rows(tx, w))  # type: ignore[misc]
        raise Unavailable(
            f"transaction {waiting[0]} was run before and is still undecided; ask again",
            code="undecided",
            retry_after_s=1.0,
        )

    async def _rows(self, transactions: Sequence[NewTransaction], sides: dict[str, Side]) -> list[NewRow]:
        """The log's rows for a run."""
        created_us = self._stamp_us()
        # By our clock as it is, not by the stamp: recovery compares it with clocks.
        due_us = self._clock.now_us() + int((self._settings.try_timeout_s + self._settings.grace_s) * 1e6)
        digests = digests_of(len(transactions), sides)
        refs: dict[tuple[str, ...], int] = {}
        if all(len(side.items) == len(transactions) for side in sides.values()):
            ref = await self._ref(tuple(sides))
            return [(t.id, ref, digest, created_us, due_us) for t, digest in zip(transactions, digests, strict=True)]
        rows: list[NewRow] = []
        for t, digest in zip(transactions, digests, strict=True):
            names = tuple(sorted(t.branches))
            if names not in refs:
                refs[names] = await self._ref(names)
            rows.append((t.id, refs[names], digest, created_us, due_us))
        return rows

    async def _ref(self, names: tuple[str, ...]) -> int:
        ref = self._branch_sets.find(names)
        if ref is None:  # the first transaction of its kind in this database
            await self._store.write(lambda tx: self._branch_sets.add(tx, names))
            await self._store.read(self._branch_sets.load)
            ref = self._branch_sets.find(names)
        assert ref is not None
        return ref

    def _stamp_us(self) -> int:
        """Now, but never earlier than before: participants tell old calls from new ones by it."""
        self._last_us = now_us = max(self._clock.now_us(), self._last_us)
        return now_us

    def _observe_us(self, time_us: int) -> None:
        """A time seen in the log: stamps are later from now on."""
        self._last_us = max(self._last_us, time_us)

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        # An empty context: background work has no caller, no deadline and no trace of whoever started it.
        task = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._died)

    def _died(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.critical("coordinator_task_died", exc_info=task.exception())

    def _ran(self, count: int, task: asyncio.Task[object]) -> None:
        self._running -= count
        self._runs.discard(task)
        if not task.cancelled():
            task.exception()  # marks it as seen: the caller may have stopped waiting


def _stands(transaction: int, rows: Mapping[int, LogRow]) -> Decision | Error:
    """What the log says of a transaction that was to be released."""
    if transaction not in rows:
        return NotFound(f"there is no transaction {transaction} in the log", code="unknown_transaction")
    return decision_of(rows[transaction]) or Conflict(
        f"transaction {transaction} is still being tried; release it when `hold` has returned",
        code="not_held",
        transaction=transaction,
    )


def _all(outcomes: Sequence[Decision | Error]) -> Sequence[Decision]:
    return cast("Sequence[Decision]", outcomes)
