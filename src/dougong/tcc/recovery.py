"""Finish what others left: claim overdue transactions from the log, and forget those that are over.

A row is overdue when whoever looked after it has not moved it for a lease. Claims are leases too, so several
coordinators on one log share the work, and one that dies while recovering is recovered itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from dougong.clock import Clock
from dougong.errors import Error
from dougong.store import Store, Tx, in_halves
from dougong.tcc._protocol import TransactionState
from dougong.tcc.deciding import Decider
from dougong.tcc.log import CLAIM_ROWS, BranchSets, Log, LogRow
from dougong.tcc.settler import Settler
from dougong.tcc.sides import initiator_of
from dougong.tcc.transaction import OPEN, Decision
from dougong.tcc.wire import ITEMS_MAX, Forget, ParticipantClient
from dougong.telemetry import counter, gauge, get_logger, span

__all__ = ["Recovery"]

T = TransactionState
_log = get_logger("dougong.tcc")
_recovered = counter("dougong_tcc_recovered_total", "Overdue transactions taken over.", labels=("state",))
_undecidable = counter("dougong_tcc_undecidable_total", "Overdue transactions whose decide callback failed.")
_parked_now = gauge("dougong_tcc_parked", "Transactions that wait for an operator.", labels=("initiator",))

_ROUNDS_MAX = 10_000
"""Units of one forgetting at most; the next one goes on."""


class Recovery:
    """Two loops: `scan` takes over what is overdue, `forget` drops what is over."""

    def __init__(
        self,
        store: Store,
        log: Log,
        branch_sets: BranchSets,
        decider: Decider,
        settler: Settler,
        clock: Clock,
        initiator: str,
        participants: Mapping[str, ParticipantClient],
        *,
        owner: str,
        stamp_us: Callable[[], int],
        observe_us: Callable[[int], None],
        try_timeout_s: float,
        unfinished_max: int,
        lease_s: float,
        longest_s: float,
        hold_s_max: float,
        scan_every_s: float,
        retention_s: float,
        forget_every_s: float,
    ) -> None:
        self._store = store
        self._log = log
        self._branch_sets = branch_sets
        self._decider = decider
        self._settler = settler
        self._clock = clock
        self._initiator = initiator
        self._participants = participants
        self._owner = owner
        self._stamp_us = stamp_us
        self._observe_us = observe_us
        self._try_timeout_us = int(try_timeout_s * 1e6)
        self._unfinished_max = unfinished_max
        self._lease_us = int(lease_s * 1e6)
        self._horizon_us = int((lease_s + longest_s) * 1e6) + 60_000_000
        self._hold_horizon_us = int(hold_s_max * 1e6) + 60_000_000
        self._scan_every_s = scan_every_s
        self._retention_us = int(retention_s * 1e6)
        self._forget_every_s = forget_every_s

    async def scan(self) -> None:
        """For ever: claim and finish what is overdue."""
        while True:
            try:
                while await self.claim() == CLAIM_ROWS and len(self._settler) < self._unfinished_max:
                    pass
            except Error as error:
                _log.warning("recovery_delayed", error=str(error))
            except Exception:  # noqa: BLE001 (a bug in one round must not end all later ones)
                _log.exception("recovery_failed")
            await asyncio.sleep(self._scan_every_s)

    async def claim(self) -> int:
        """One round; how many were claimed."""
        now_us = self._clock.now_us()
        rows = await self._store.write(
            lambda tx: self._log.claim(
                tx,
                now_us,
                now_us + self._horizon_us,
                now_us + self._hold_horizon_us,
                self._owner,
                now_us + self._lease_us,
            )
        )
        if rows:
            # Another coordinator's clock may be ahead: what is sent about its transactions must not look older than
            # what it sent itself, or a participant would forget the answer before the question arrives.
            self._observe_us(max(row.created_us for row in rows) + self._try_timeout_us)
        open_ = [row for row in rows if row.state in OPEN]
        told = [row for row in rows if row.state not in OPEN]
        if told:
            busy = self._settler.busy_with([row.id for row in told])
            told = [row for row in told if row.id not in busy]
        if open_ or told:
            with span("tcc.recover", items=len(open_) + len(told)):
                await self.learn(rows)
                _recovered.inc(len(open_), "open")
                _recovered.inc(len(told), "decided")
                self.settle(told)
                await self._expire(open_)
        return len(rows)

    async def _expire(self, rows: Sequence[LogRow]) -> None:
        """Cancel transactions whose time to be decided, or held, is over."""
        if not rows:
            return
        by_id = {row.id: row for row in rows}

        async def part(some: Sequence[LogRow]) -> list[Decision]:
            decisions = [_expired(row) for row in some]

            async def expire(tx: Tx) -> list[Decision]:
                return await self._decider.expire(tx, some, decisions, self._clock.now_us() + self._lease_us)

            return await self._store.write(expire)

        results, culprits = await in_halves(rows, part)
        for row, error in culprits:  # the claim's lease paces the next attempt
            _undecidable.inc(1)
            _log.error("decide_failed", transaction=row.id, exc_info=error)
        cancelled = [by_id[d.transaction] for ds in results for d in ds]
        self.settle([row.moved(T.CANCELLING) for row in cancelled])

    def settle(self, rows: Sequence[LogRow]) -> None:
        """Queue decided transactions, all branches of each: what was told before is only told again."""
        groups: dict[tuple[TransactionState, int, int], list[int]] = {}
        busy = self._settler.busy_with([row.id for row in rows])  # again: others decide while recovery waits
        for row in rows:
            if row.id not in busy:
                groups.setdefault((row.state, row.branches, row.attempts), []).append(row.id)
        for (state, ref, attempts), ids in groups.items():
            names = self._branch_sets.names(ref)
            unknown = [n for n in names or ("?",) if n not in self._participants]
            if names is None or unknown:
                _log.error("participants_unknown", participants=unknown, count=len(ids), first=ids[0])
                continue
            self._settler.add(state, dict.fromkeys(names, ids), attempts=attempts)

    async def learn(self, rows: Sequence[LogRow]) -> None:
        """Look up combinations of participants that another coordinator was the first to use."""
        if any(self._branch_sets.names(row.branches) is None for row in rows):
            await self._store.read(self._branch_sets.load)

    async def forget(self) -> None:
        """For ever: drop transactions that are over, with their participants first."""
        while True:
            await asyncio.sleep(self._forget_every_s)
            try:
                await self.forget_once()
            except Error as error:
                _log.warning("forgetting_delayed", error=str(error))
            except Exception:  # noqa: BLE001
                _log.exception("forgetting_failed")

    async def forget_once(self) -> None:
        """One pass.

        The floor is written down before any participant hears of it, so that after a restart with a clock set back this
        initiator never sends times below it. The log's rows go last: while one is there, its id is known to be used.
        """
        log = self._log

        async def look(tx: Tx) -> tuple[list[int], int | None]:
            return await log.parked(tx, ITEMS_MAX + 1), await log.oldest_us(tx)

        keep, oldest_us = await self._store.read(look)  # one snapshot: a transaction is in one of the two
        _parked_now.set(len(keep), self._initiator)
        if len(keep) > ITEMS_MAX:
            _log.error("forgetting_stopped", reason=f"more than {ITEMS_MAX} transactions are parked: see to them first")
            return
        now_us = self._stamp_us()
        before_us = min(now_us, oldest_us if oldest_us is not None else now_us) - self._retention_us
        if before_us <= 0:
            return
        await self._store.write(lambda tx: log.raise_floor(tx, before_us))
        silent: list[Error] = []
        for name, client in self._participants.items():
            request = Forget(initiator=initiator_of(self._initiator, name), before_us=before_us, keep=keep)
            try:
                for _ in range(_ROUNDS_MAX):
                    if not (await client.forget(request)).more:
                        break
            except Error as error:  # the others forget all the same
                silent.append(error)
        if silent:
            raise silent[0]
        for _ in range(_ROUNDS_MAX):
            if not await self._store.write(lambda tx: log.forget(tx, before_us)):
                break


def _expired(row: LogRow) -> Decision:
    if row.code:  # an operator's doing
        return Decision(row.id, False, row.code, row.message)
    if row.state is T.HELD:
        return Decision(row.id, False, "expired", "it was held, and not confirmed in time")
    return Decision(row.id, False, "unavailable", "it was not decided in time, so it was cancelled")
