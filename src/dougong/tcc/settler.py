"""Phase 2 against the world: tell participants, and keep the log up to date about it.

A few workers per participant take from `Settling` what has gathered there, so that runs of different callers ride
together. The log learns of the results through one journal, whose entries
ride in later commits: until then a crash only means that a participant is told again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence

import msgspec

from dougong.clock import Clock
from dougong.errors import DeadlineExceeded, Error, Internal
from dougong.store import Store, Tx
from dougong.tcc._protocol import TransactionState
from dougong.tcc.guarded import GuardedClient
from dougong.tcc.log import Log
from dougong.tcc.settling import SettleBatch, Settling
from dougong.tcc.sides import initiator_of
from dougong.tcc.transaction import RetrySchedule
from dougong.tcc.wire import Answer, Settle, answers_of
from dougong.telemetry import counter, get_logger, span

__all__ = ["Settler"]

_log = get_logger("dougong.tcc")
_settled = counter("dougong_tcc_settled_total", "Transactions settled with all participants.", labels=("state",))
_retries = counter("dougong_tcc_retries_total", "Branches whose confirm or cancel failed.", labels=("participant",))
_parked = counter(
    "dougong_tcc_parked_total", "Transactions given up on, to wait for an operator.", labels=("participant", "code")
)

JOURNAL_ROWS = 5000
JOURNAL_PAUSE_S = 0.5
LOOK_S = 0.1
WRITE_DOWN_S = 1.0
"""A shorter delay than this is not worth a write to the log."""

Spawn = Callable[[Coroutine[object, object, None]], object]


class _Entries(msgspec.Struct):
    """What the log does not know yet."""

    confirmed: list[int] = []
    cancelled: list[int] = []
    postponed: list[tuple[int, int, str, int]] = []
    parked_confirming: list[tuple[int, int, str, int]] = []
    parked_cancelling: list[tuple[int, int, str, int]] = []

    def __bool__(self) -> bool:
        return any((self.confirmed, self.cancelled, self.postponed, self.parked_confirming, self.parked_cancelling))

    def ids(self) -> set[int]:
        """Transactions that have left memory, or will have once this is written."""
        parked = {row[3] for row in (*self.parked_confirming, *self.parked_cancelling)}
        return parked.union(self.confirmed, self.cancelled)


class Settler:
    """Queue with `add`; everything else happens in the tasks that `start` makes."""

    def __init__(
        self,
        store: Store,
        log: Log,
        clock: Clock,
        initiator: str,
        participants: Mapping[str, GuardedClient],
        *,
        stamp_us: Callable[[], int],
        random: Callable[[], float],
        schedule: RetrySchedule,
        max_batch: int,
        calls_in_flight: int,
        gather_s: float,
        timeout_s: float,
        lease_s: float,
    ) -> None:
        self._store = store
        self._log = log
        self._clock = clock
        self._initiator = initiator
        self._participants = participants
        self._stamp_us = stamp_us
        self._max_batch = max_batch
        self._calls_in_flight = calls_in_flight
        self._timeout_s = timeout_s
        self._lease_us = int(lease_s * 1e6)
        self._settling = Settling(list(participants), schedule, random, gather_s=gather_s)
        self._wakes = {name: asyncio.Event() for name in participants}
        self._turns = {name: asyncio.Lock() for name in participants}
        """Of the workers of a participant, one waits for what is next; the others would only wake up beside it."""
        self._entries = _Entries()
        self._writing = _Entries()
        """What the journal is writing right now."""
        self._journal_wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        return len(self._settling)

    def busy_with(self, transactions: Sequence[int]) -> set[int]:
        """Those of the transactions that are being settled here, or are settled but not logged yet."""
        logged_soon = self._entries.ids() | self._writing.ids()
        return {t for t in transactions if t in self._settling or t in logged_soon}

    def start(self, spawn: Spawn) -> None:
        """Start the workers."""
        for name in self._participants:
            for _ in range(self._calls_in_flight):
                spawn(self._work(name))
        spawn(self._journal())

    def add(self, state: TransactionState, targets: Mapping[str, Sequence[int]], *, attempts: int = 0) -> None:
        """Have participants told: participant → transactions."""
        self._idle.clear()
        self._settling.add(state, targets, attempts=attempts)
        for name in targets:
            self._wakes[name].set()

    async def drain(self, timeout_s: float) -> None:
        """Wait until everything is settled and logged, but no longer than that."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            pass  # what is left is in the log, for recovery

    async def _work(self, name: str) -> None:
        while True:
            async with self._turns[name]:
                batch = await self._next(name)
            await self._tell(batch)

    async def _next(self, name: str) -> SettleBatch:
        """The next call to make, as soon as there is one."""
        settling, wake, client = self._settling, self._wakes[name], self._participants[name]
        while True:
            if (wait_s := client.wait_s()) > 0:  # nobody is asked, so no retry is spent on somebody who is away
                await asyncio.sleep(min(wait_s, LOOK_S))  # somebody else may find out sooner
                continue
            wake.clear()
            now = self._clock.monotonic()
            batch = settling.take(name, self._max_batch, now)
            if batch is not None:
                return batch
            due = settling.next_due(name)
            if due is None:
                await wake.wait()
                continue
            try:
                async with asyncio.timeout(max(due - now, 0.001)):
                    await wake.wait()
            except TimeoutError:
                pass  # it is due

    async def _tell(self, batch: SettleBatch) -> None:
        """Make one call and draw the consequences."""
        ids, name = batch.ids, batch.participant
        client = self._participants[name]
        confirm = batch.state is TransactionState.CONFIRMING
        call = client.confirm if confirm else client.cancel
        try:
            with span("tcc.confirm" if confirm else "tcc.cancel", participant=name, items=len(ids)):
                async with asyncio.timeout(self._timeout_s):
                    as_whom = initiator_of(self._initiator, name)
                    reply = await call(Settle(initiator=as_whom, sent_us=self._stamp_us(), transactions=ids))
                answers = answers_of(reply, len(ids))
        except Error as error:
            # Left alone after that: it is away for everybody, which says nothing about these transactions.
            self._failed(batch, ids, error.code, str(error), away_s=client.wait_s())
            return
        except TimeoutError:
            late = DeadlineExceeded(f"{name} did not answer within {self._timeout_s} s")
            self._failed(batch, ids, late.code, str(late), away_s=client.wait_s())
            return
        except Exception as error:  # noqa: BLE001 (a participant in this process may raise anything)
            _log.exception("participant_call_failed", participant=name)
            self._failed(batch, ids, "internal", str(Internal(repr(error))))
            return
        if answers:
            alike: dict[tuple[bool, str], list[Answer]] = {}
            for answer in answers:
                alike.setdefault((answer[1] == "conflict", answer[2]), []).append(answer)
            for (hopeless, code), some in alike.items():
                self._failed(batch, [ids[i] for i, *_ in some], code, some[0][3], hopeless=hopeless)
            bad = {i for i, *_ in answers}
            ids = [t for i, t in enumerate(ids) if i not in bad]
        done = self._settling.succeeded(name, ids)
        if done:
            (self._entries.confirmed if confirm else self._entries.cancelled).extend(done)
            self._journal_wake.set()

    def _failed(
        self,
        batch: SettleBatch,
        ids: list[int],
        code: str,
        message: str,
        *,
        hopeless: bool = False,
        away_s: float = 0.0,
    ) -> None:
        name = batch.participant
        failed = self._settling.failed(batch, ids, self._clock.monotonic(), hopeless=hopeless, away_s=away_s)
        _retries.inc(len(ids), name)
        now_us = self._clock.now_us()
        failure = f"{name}: {message}"
        if failed.postponed:
            self._wakes[name].set()  # another worker may sleep until a later retry
            if failed.delay_s >= WRITE_DOWN_S:
                due_us = now_us + int(failed.delay_s * 1e6) + self._lease_us
                self._entries.postponed += [(failed.attempts, due_us, failure, t) for t in failed.postponed]
                self._journal_wake.set()
        if failed.parked:
            confirm = batch.state is TransactionState.CONFIRMING
            parked = self._entries.parked_confirming if confirm else self._entries.parked_cancelling
            parked += [(failed.attempts, now_us, failure, t) for t in failed.parked]
            self._journal_wake.set()
            _parked.inc(len(failed.parked), name, code)
            _log.error(
                "transactions_parked",
                participant=name,
                state=batch.state.name.lower(),
                count=len(failed.parked),
                first=failed.parked[0],
                attempts=failed.attempts,
                code=code,
                failure=message,
            )

    async def _journal(self) -> None:
        wake = self._journal_wake
        while True:
            if not self._entries:
                wake.clear()
                if not self._settling:
                    self._idle.set()
                await wake.wait()
            entries, self._entries = self._entries, _Entries()
            self._writing = entries
            try:
                await self._store.write(lambda tx, e=entries: self._write(tx, e))  # type: ignore[misc]
            except Exception as error:  # noqa: BLE001 (whatever it is, what happened must still be written down)
                _log.warning("journal_delayed", error=str(error))
                self._put_back(entries)
                await asyncio.sleep(JOURNAL_PAUSE_S)
            else:
                _settled.inc(len(entries.confirmed), "confirmed")
                _settled.inc(len(entries.cancelled), "cancelled")
            finally:
                self._writing = _Entries()

    async def _write(self, tx: Tx, entries: _Entries) -> None:
        """In this order, since what was postponed or parked first may be finished by now; never the other way round."""
        log = self._log
        if entries.postponed:
            await log.postpone(tx, entries.postponed)
        if entries.parked_confirming:
            await log.park(tx, TransactionState.CONFIRMING, entries.parked_confirming)
        if entries.parked_cancelling:
            await log.park(tx, TransactionState.CANCELLING, entries.parked_cancelling)
        for start in range(0, len(entries.confirmed), JOURNAL_ROWS):
            await log.finish(tx, TransactionState.CONFIRMING, entries.confirmed[start : start + JOURNAL_ROWS])
        for start in range(0, len(entries.cancelled), JOURNAL_ROWS):
            await log.finish(tx, TransactionState.CANCELLING, entries.cancelled[start : start + JOURNAL_ROWS])

    def _put_back(self, entries: _Entries) -> None:
        later = self._entries
        for field in _Entries.__struct_fields__:
            setattr(later, field, getattr(entries, field) + getattr(later, field))
