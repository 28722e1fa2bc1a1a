"""The coordinator: log, try, decide, acknowledge; telling participants comes after.

Per run two local units and one call per participant. Nothing here is per transaction that can be per batch: the common
case (everybody said yes) touches each transaction in a handful of list operations.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import os
import random as _random
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from itertools import repeat

import msgspec

from dougong.clock import Clock, SystemClock
from dougong.errors import Conflict, Error, Overloaded, Unavailable, error_from
from dougong.rpc import Batcher, call_scope
from dougong.store import Store, Tx, migrations_from
from dougong.tcc._protocol import Refusal, TransactionState
from dougong.tcc.deciding import Decide, Decider, Raced, decision_of
from dougong.tcc.log import BranchSets, Log, NewRow
from dougong.tcc.operator import Operator
from dougong.tcc.recovery import Recovery
from dougong.tcc.settler import Settler
from dougong.tcc.sides import Side, digests_of, sides_of
from dougong.tcc.transaction import Decision, NewTransaction, Outcome, RetrySchedule, judge
from dougong.tcc.wire import ParticipantClient, TryBatch, answers_of
from dougong.telemetry import counter, get_logger, span

__all__ = ["Coordinator", "CoordinatorSettings"]

T = TransactionState
Begin = Callable[[Tx], Awaitable[None]]
_Said = bool | Refusal
_log = get_logger("dougong.tcc")
_decided = counter("dougong_tcc_transactions_total", "Transactions decided by a run.", labels=("initiator", "outcome"))

DECIDED_POLL_S = 0.02


class CoordinatorSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds and patience. Seconds."""

    try_timeout_s: float = 3.0
    """A participant that has not answered by then counts as unavailable, and the transaction is cancelled."""
    grace_s: float = 1.0
    """On top of that, before anybody else may take an undecided transaction over."""
    settle_timeout_s: float = 5.0
    retry: RetrySchedule = RetrySchedule()
    lease_s: float = 10.0
    """How long a claimed transaction is left to whoever claimed it."""
    scan_every_s: float = 0.5
    retention_s: float = 3600.0
    """How long after its beginning a finished transaction can still be run again and give its original outcome; an id
    must not be run again later than that. Clocks of coordinators that share a log differ by less."""
    forget_every_s: float = 60.0
    drain_s: float = 2.0
    max_batch: int = 1000
    """Transactions in one call to a participant."""
    calls_in_flight: int = 3
    """Per participant, for Try and again for confirm and cancel."""
    unfinished_max: int = 100_000
    """Over so many, runs are refused with `Overloaded`."""


class Coordinator:
    """Runs transactions over participants, each either confirmed with all of them or cancelled with all of them.

    - `store`: the initiator's database; the log lives in it, beside the initiator's own tables.
    - `initiator`: its name, for good: participants know its transactions by it.
    - `participants`: service name → the `ParticipantService` itself, or a client of it.
    - `decide`: writes the initiator's rows for decisions, in the unit that logs them. It is given here and not per run,
      since a transaction left over by a crash is decided by recovery, with the same code. It gets each transaction's
      decision exactly once, may run again if its unit does, and must not fail for a decision it does not like.
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
        self._participants = dict(participants)
        self._clock = clock = clock if clock is not None else SystemClock()
        self._settings = settings = settings if settings is not None else CoordinatorSettings()
        self._log = Log()
        self._branch_sets = BranchSets()
        self._decider = Decider(self._log, decide)
        self._operator = Operator(store)
        self._tries: dict[str, Batcher[tuple[int, bytes], _Said]] = {
            name: Batcher(
                self._try_call(name, client),
                max_batch=settings.max_batch,
                max_in_flight=settings.calls_in_flight,
                timeout_s=settings.try_timeout_s,
                name=f"try of {name}",
            )
            for name, client in self._participants.items()
        }
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
            scan_every_s=settings.scan_every_s,
            retention_s=settings.retention_s,
            forget_every_s=settings.forget_every_s,
        )
        self._last_us = 0
        self._running = 0
        """Transactions in runs under way."""
        self._runs: set[asyncio.Task[Sequence[Decision]]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = False

    async def start(self) -> None:
        """Prepare the log, take over what is overdue, and be ready. `Invalid` when the log is another initiator's."""
        await self._store.migrate("dougong.tcc.log", migrations_from("dougong.tcc.migrations.log"))
        floor_us = await self._store.write(lambda tx: self._log.open(tx, self._initiator))
        await self._store.read(self._branch_sets.load)
        self._last_us = floor_us + 1
        self._settler.start(self._spawn)
        self._spawn(self._recovery.scan())
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
        for batcher in self._tries.values():
            await batcher.close()

    async def run(self, transactions: Sequence[NewTransaction], *, begin: Begin | None = None) -> Sequence[Outcome]:
        """Decide transactions; one outcome each, in order. When it returns, the decisions are durable.

        `begin` writes the initiator's own rows in the unit that logs the transactions. An id that was run before gives
        its original outcome (`Conflict` code `payload_mismatch` if it was another transaction), and `begin` is not
        called; ids run before and new ones do not mix in a run with `begin` (`Conflict` code `mixed_run`).

        Raises what `begin` raised (nothing happened then), `Overloaded`, or `Unavailable` from the database: if that
        happens after the log was written, recovery cancels the transactions. A caller that is cancelled stops waiting;
        the run goes on.
        """
        if not transactions:
            return []
        if not self._open:
            raise Unavailable("the coordinator is not running", code="closed")
        unfinished = self._running + len(self._settler)
        if unfinished and unfinished + len(transactions) > self._settings.unfinished_max:
            raise Overloaded(
                f"{unfinished} transactions of {self._initiator} are unfinished: is a participant down?",
                code="too_many_unfinished",
                retry_after_s=1.0,
            )
        sides = sides_of(transactions, self._participants)
        self._running += len(transactions)
        task = asyncio.create_task(self._run(transactions, sides, begin))
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
        self, transactions: Sequence[NewTransaction], sides: dict[str, Side], begin: Begin | None
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
                return await self._run_again(transactions, rows, begin)
            decisions, held = await self._try(transactions, sides)
            return await self._decide(decisions, held, sides)

    async def _try(
        self, transactions: Sequence[NewTransaction], sides: dict[str, Side]
    ) -> tuple[list[Decision], dict[str, list[int]]]:
        """Ask all participants at once; the decisions, and per participant the refused positions it may hold."""
        # Our own call to a participant, whoever made us run: calls of different callers ride together.
        with span("tcc.try"), call_scope(timeout_s=self._settings.try_timeout_s):
            if len(sides) == 1:
                ((name, side),) = sides.items()
                answered = [await self._tries[name].many(side.items)]
            else:
                answered = await asyncio.gather(*(self._tries[n].many(side.items) for n, side in sides.items()))
        verdict = judge(
            {name: (side.positions, said) for (name, side), said in zip(sides.items(), answered, strict=True)},
        )
        if not verdict.refused:
            return list(map(Decision, [t.id for t in transactions], repeat(True))), {}
        no = verdict.refused
        decisions = [
            Decision(t.id, False, *no[i]) if i in no else Decision(t.id, True) for i, t in enumerate(transactions)
        ]
        return decisions, verdict.holding

    async def _decide(
        self, decisions: Sequence[Decision], holding: dict[str, list[int]], sides: dict[str, Side]
    ) -> Sequence[Decision]:
        """Make it durable, hand it to phase 2, and only then let the caller know."""
        held = {decisions[i].transaction for positions in holding.values() for i in positions}
        try:
            await self._store.write(lambda tx: self._decider.write(tx, decisions, held))
            stands: Sequence[Decision] = decisions
        except Raced:  # cancelled by an operator, or by recovery because time ran out
            stands = await self._store.write(lambda tx: self._decider.write_open(tx, decisions, held))
        confirm: dict[str, Sequence[int]] = {}
        cancel: dict[str, Sequence[int]] = {}
        if stands is decisions and not any(not d.accepted for d in decisions):
            _decided.inc(len(decisions), self._initiator, "accepted")
            for name, side in sides.items():
                confirm[name] = [t for t, _ in side.items]
        else:
            mine = [stands[i] is decisions[i] for i in range(len(decisions))]
            for name, side in sides.items():
                confirm[name] = [decisions[i].transaction for i in side.positions if mine[i] and decisions[i].accepted]
            for name, positions in holding.items():
                cancel[name] = [decisions[i].transaction for i in positions if mine[i]]
            for decision in stands:
                outcome = "accepted" if decision.accepted else decision.code
                _decided.inc(1, self._initiator, outcome if outcome in {"accepted", "unavailable"} else "refused")
        self._settler.add(T.CONFIRMING, confirm)
        if cancel:
            self._settler.add(T.CANCELLING, cancel)
        return stands

    async def _run_again(
        self, transactions: Sequence[NewTransaction], rows: Sequence[NewRow], begin: Begin | None
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
            for decision in await self._run(fresh, sides_of(fresh, self._participants), None):
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
        due_us = created_us + int((self._settings.try_timeout_s + self._settings.grace_s) * 1e6)
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

    def _try_call(
        self, name: str, client: ParticipantClient
    ) -> Callable[[Sequence[tuple[int, bytes]]], Awaitable[Sequence[_Said | Error]]]:
        async def call(items: Sequence[tuple[int, bytes]]) -> Sequence[_Said | Error]:
            ids, payloads = zip(*items, strict=True)
            request = TryBatch(
                initiator=self._initiator, sent_us=self._stamp_us(), transactions=list(ids), payloads=list(payloads)
            )
            with span("tcc.call", participant=name, items=len(ids)):
                answers = answers_of(await client.try_(request), len(ids))
            said: list[_Said | Error] = [True] * len(ids)
            for i, family, code, message in answers:
                said[i] = error_from(family, code, message, {}) if family else Refusal(code, message)
            return said

        return call

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

    def _ran(self, count: int, task: asyncio.Task[Sequence[Decision]]) -> None:
        self._running -= count
        self._runs.discard(task)
        if not task.cancelled():
            task.exception()  # marks it as seen: the caller may have stopped waiting
