"""Phase 2 in memory: who still has to be told what, in which batches, and what to do when telling fails.

Each participant has its own queues, so that a slow one holds up nothing but its own branches; what failed goes into
batches of its own, so that a transaction that fails always (a poison) never drags fresh ones along.

What is fresh gathers for a moment after each call, since nobody waits for it and a call costs both sides something
whatever is in it. The first after a quiet time goes at once, and so does a full batch.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from dougong.tcc._protocol import TransactionState
from dougong.tcc.transaction import RetrySchedule

__all__ = ["Failed", "SettleBatch", "Settling"]


AFTER_S = 0.1


class SettleBatch(msgspec.Struct, frozen=True):
    """One call to make."""

    participant: str
    state: TransactionState
    """CONFIRMING or CANCELLING."""
    ids: list[int]
    attempts: int
    """Calls that have failed for these before."""


class Failed(msgspec.Struct, frozen=True):
    """What became of transactions that a call did not settle."""

    postponed: list[int]
    attempts: int
    delay_s: float
    parked: list[int]


class _Fresh:
    """What one participant has not been told yet, of one kind."""

    __slots__ = ("count", "queue", "ripe_at", "state")

    def __init__(self, state: TransactionState) -> None:
        self.state = state
        self.queue: deque[Sequence[int]] = deque()
        self.count = 0
        """Transactions in it."""
        self.ripe_at = 0.0
        """Until then they gather, unless they fill a batch."""


class _Lane:
    """One participant's queues."""

    __slots__ = ("bit", "fresh", "prefer_retry", "retries")

    def __init__(self, bit: int) -> None:
        self.bit = bit
        states = (TransactionState.CONFIRMING, TransactionState.CANCELLING)
        self.fresh = {state: _Fresh(state) for state in states}
        self.retries: list[tuple[float, int, SettleBatch]] = []
        self.prefer_retry = False


class Settling:
    """Times are monotonic seconds; `random` gives numbers in [0, 1)."""

    def __init__(
        self,
        participants: Sequence[str],
        schedule: RetrySchedule,
        random: Callable[[], float],
        *,
        gather_s: float = 0.0,
    ) -> None:
        self._schedule = schedule
        self._random = random
        self._gather_s = gather_s
        self._lanes = {name: _Lane(1 << i) for i, name in enumerate(participants)}
        self._left: dict[int, int] = {}
        """Transaction → bits of the participants that have not settled it."""
        self._count = 0

    def __len__(self) -> int:
        """Transactions not settled everywhere."""
        return len(self._left)

    def __contains__(self, transaction: int) -> bool:
        return transaction in self._left

    def add(self, state: TransactionState, targets: Mapping[str, Sequence[int]], *, attempts: int = 0) -> None:
        """Queue transactions; `targets`: participant → ids it has to be told about. With attempts > 0 they were
        tried before (by this process or another) and travel with their like."""
        left = self._left
        fresh = [(name, ids) for name, ids in targets.items() if ids]
        first = True
        for name, ids in fresh:
            lane = self._lanes[name]
            if first:
                first = False
                left.update(dict.fromkeys(ids, lane.bit))
            else:
                bit = lane.bit
                for transaction in ids:
                    left[transaction] = left.get(transaction, 0) | bit
            if attempts:
                self._push(lane, 0.0, SettleBatch(name, state, list(ids), attempts))
            else:
                lane.fresh[state].queue.append(ids)
                lane.fresh[state].count += len(ids)

    def take(self, participant: str, limit: int, now: float) -> SettleBatch | None:
        """The next call to make, at most `limit` transactions of one kind; None when there is nothing to do yet."""
        lane = self._lanes[participant]
        lane.prefer_retry = not lane.prefer_retry
        if lane.prefer_retry:
            return self._take_retry(lane, limit, now) or self._take_fresh(participant, lane, limit, now)
        return self._take_fresh(participant, lane, limit, now) or self._take_retry(lane, limit, now)

    def next_due(self, participant: str) -> float | None:
        """When there is something to take, if nothing more comes; None when nothing waits."""
        lane = self._lanes[participant]
        due = [fresh.ripe_at for fresh in lane.fresh.values() if fresh.count]
        due += [retry_at for retry_at, *_ in lane.retries[:1]]
        return min(due, default=None)

    def succeeded(self, participant: str, ids: Iterable[int]) -> list[int]:
        """Those that are now settled everywhere, and leave."""
        left, bit = self._left, self._lanes[participant].bit
        done: list[int] = []
        for transaction in ids:
            bits = left.get(transaction)
            if bits is None:
                continue  # parked meanwhile, or told twice
            if bits == bit:
                del left[transaction]
                done.append(transaction)
            else:
                left[transaction] = bits & ~bit
        return done

    def failed(
        self, batch: SettleBatch, ids: Sequence[int], now: float, *, hopeless: bool = False, away_s: float = 0.0
    ) -> Failed:
        """A call settled `batch` except `ids`: try them again later, or park them when the budget is spent or it is
        `hopeless`. It spends nothing that a participant is left alone for `away_s`: once it is back they go on without
        a hand, and a little after that time, so that whoever else wants to know whether it is back asks first."""
        ids = [t for t in ids if t in self._left]
        attempts = batch.attempts + (not away_s)
        if hopeless or attempts >= self._schedule.attempts:
            for transaction in ids:
                del self._left[transaction]
            return Failed([], attempts, 0.0, ids)
        delay_s = self._schedule.delay_s(max(attempts, 1), self._random())
        if away_s:
            delay_s = max(delay_s, away_s + AFTER_S)
        if ids:
            again = SettleBatch(batch.participant, batch.state, ids, attempts)
            self._push(self._lanes[batch.participant], now + delay_s, again)
        return Failed(ids, attempts, delay_s, [])

    def _push(self, lane: _Lane, due: float, batch: SettleBatch) -> None:
        self._count += 1
        heapq.heappush(lane.retries, (due, self._count, batch))

    def _take_retry(self, lane: _Lane, limit: int, now: float) -> SettleBatch | None:
        while lane.retries and lane.retries[0][0] <= now:
            due, _, batch = heapq.heappop(lane.retries)
            ids = [t for t in batch.ids if self._left.get(t, 0) & lane.bit]
            if len(ids) > limit:
                self._push(lane, due, SettleBatch(batch.participant, batch.state, ids[limit:], batch.attempts))
                ids = ids[:limit]
            if ids:
                return SettleBatch(batch.participant, batch.state, ids, batch.attempts)
        return None

    def _take_fresh(self, participant: str, lane: _Lane, limit: int, now: float) -> SettleBatch | None:
        for fresh in lane.fresh.values():
            if fresh.count >= limit or (fresh.count and now >= fresh.ripe_at):
                break
        else:
            return None
        queue = fresh.queue
        ids = list(queue.popleft())
        while queue and len(ids) + len(queue[0]) <= limit:
            ids += queue.popleft()
        if len(ids) > limit:
            queue.appendleft(ids[limit:])
            del ids[limit:]
        fresh.count -= len(ids)
        fresh.ripe_at = now + self._gather_s
        return SettleBatch(participant, fresh.state, ids, 0)
