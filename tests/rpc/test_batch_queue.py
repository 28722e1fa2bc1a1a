"""The batch queue's decisions, in every order hypothesis can think of."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from dougong.errors import DeadlineExceeded
from dougong.rpc.batcher import Batch, BatchQueue, Waiter

MAX_BATCH = 5
MAX_PENDING = 12


class QueueMachine(RuleBasedStateMachine):
    """A model beside the queue: which items wait, which are under way, which have which outcome."""

    batches = Bundle("batches")

    def __init__(self) -> None:
        super().__init__()
        self.queue: BatchQueue[int, str] = BatchQueue(max_batch=MAX_BATCH, max_pending=MAX_PENDING)
        self.serial = 0
        self.waiters: list[Waiter[int, str]] = []
        self.waiting: dict[str, list[int]] = {}
        self.answers: dict[int, str] = {}

    @rule(count=st.integers(1, 9), key=st.sampled_from("ab"), deadline=st.none() | st.floats(1, 100))
    def add(self, count: int, key: str, deadline: float | None) -> None:
        items = list(range(self.serial, self.serial + count))
        waiter: Waiter[int, str] = Waiter(items, key=key, deadline=deadline)
        pending = sum(map(len, self.waiting.values()))
        admitted = self.queue.add(waiter)
        assert admitted == (pending == 0 or pending + count <= MAX_PENDING)
        if admitted:
            self.serial += count
            self.waiters.append(waiter)
            self.waiting.setdefault(key, []).extend(items)

    @rule(target=batches)
    def take(self) -> Batch[int, str] | None:
        batch = self.queue.take()
        if batch is None:
            assert not any(self.waiting.values())
            return None
        assert 1 <= len(batch.requests) <= MAX_BATCH
        line = self.waiting[str(batch.key)]
        assert batch.requests == line[: len(batch.requests)], "first come, first served"
        assert len(batch.requests) == min(len(line), MAX_BATCH), "as full as it can be"
        del line[: len(batch.requests)]
        deadlines = [waiter.deadline for waiter, _, _ in batch.shares]
        latest = None if None in deadlines else max(d for d in deadlines if d is not None)
        assert batch.deadline == latest
        return batch

    @rule(batch=consumes(batches))
    def settle(self, batch: Batch[int, str] | None) -> None:
        if batch is None:
            return
        before = {id(w) for w in self.waiters if w.closed}
        complete = self.queue.settle(batch, [f"r{item}" for item in batch.requests])
        for waiter in complete:
            assert id(waiter) not in before, "answered once"
            assert waiter.outcomes == [f"r{item}" for item in waiter.requests]

    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        open_ones = [w for w in self.waiters if not w.closed]
        if not open_ones:
            return
        waiter = data.draw(st.sampled_from(open_ones))
        late = DeadlineExceeded("late")
        known = list(waiter.outcomes)
        self.queue.close(waiter, late)
        line = self.waiting[str(waiter.key)]
        self.waiting[str(waiter.key)] = [item for item in line if item not in waiter.requests]
        assert waiter.outcomes == [late if outcome is None else outcome for outcome in known]

    @invariant()
    def counts_agree(self) -> None:
        assert self.queue.pending == sum(map(len, self.waiting.values()))

    @invariant()
    def never_mixed_up(self) -> None:
        for waiter in self.waiters:
            for item, outcome in zip(waiter.requests, waiter.outcomes, strict=True):
                assert outcome is None or isinstance(outcome, DeadlineExceeded) or outcome == f"r{item}"

    def teardown(self) -> None:
        while (batch := self.queue.take()) is not None:
            self.queue.settle(batch, [f"r{item}" for item in batch.requests])
        assert self.queue.pending == 0


TestQueue: Any = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_callers_take_turns() -> None:
    queue: BatchQueue[int, str] = BatchQueue(max_batch=2, max_pending=100)
    queue.add(Waiter([1, 2, 3, 4, 5], key="long"))
    queue.add(Waiter([9], key="short"))
    order = []
    while (batch := queue.take()) is not None:
        order.append(batch.requests)
    assert order == [[1, 2], [9], [3, 4], [5]]
