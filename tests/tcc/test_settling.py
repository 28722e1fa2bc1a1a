"""Phase 2's queues: everybody is told, nobody waits for a poison, and budgets end."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from dougong.tcc import RetrySchedule, TransactionState
from dougong.tcc.settling import Settling

CONFIRMING, CANCELLING = TransactionState.CONFIRMING, TransactionState.CANCELLING


def settling(attempts: int = 3) -> Settling:
    return Settling(["a", "b"], RetrySchedule(base_s=1.0, cap_s=8.0, attempts=attempts), lambda: 0.5)


def test_runs_ride_together_up_to_the_limit() -> None:
    core = settling()
    for start in (1, 4, 7):
        core.add(CONFIRMING, {"a": [start, start + 1, start + 2]})
    first, second = core.take("a", 7, 0.0), core.take("a", 7, 0.0)
    assert first is not None
    assert second is not None
    assert (first.ids, second.ids) == ([1, 2, 3, 4, 5, 6], [7, 8, 9])
    assert core.take("a", 7, 0.0) is None


def test_a_longer_run_than_the_limit_is_cut() -> None:
    core = settling()
    core.add(CONFIRMING, {"a": list(range(1, 8))})
    taken = [core.take("a", 3, 0.0) for _ in range(4)]
    assert [batch.ids if batch else None for batch in taken] == [[1, 2, 3], [4, 5, 6], [7], None]


def test_done_when_everybody_has_heard() -> None:
    core = settling()
    core.add(CONFIRMING, {"a": [1, 2], "b": [2]})
    assert core.succeeded("a", [1, 2]) == [1]
    assert 2 in core
    assert core.succeeded("b", [2]) == [2]
    assert len(core) == 0


def test_a_poison_travels_alone_and_is_parked() -> None:
    core = settling(attempts=3)
    core.add(CONFIRMING, {"a": [1, 2, 3]})
    batch = core.take("a", 10, 0.0)
    assert batch is not None
    assert core.succeeded("a", [1, 3]) == [1, 3]
    failed = core.failed(batch, [2], 0.0)
    assert (failed.postponed, failed.delay_s) == ([2], 1.0)
    core.add(CONFIRMING, {"a": [4]})
    fresh = core.take("a", 10, 5.0), core.take("a", 10, 5.0)
    assert sorted(b.ids for b in fresh if b) == [[2], [4]]
    retry = next(b for b in fresh if b and b.ids == [2])
    assert retry.attempts == 1
    assert core.failed(retry, [2], 5.0).delay_s == 2.0
    assert core.take("a", 10, 6.9) is None
    assert core.next_retry("a") == 7.0
    last = core.take("a", 10, 7.0)
    assert last is not None
    assert core.failed(last, [2], 7.0).parked == [2]
    assert 2 not in core


def test_what_is_hopeless_is_parked_at_once() -> None:
    core = settling()
    core.add(CANCELLING, {"a": [1], "b": [1]})
    batch = core.take("a", 10, 0.0)
    assert batch is not None
    assert core.failed(batch, [1], 0.0, hopeless=True).parked == [1]
    assert core.succeeded("b", [1]) == []


def test_delays_grow_to_the_cap() -> None:
    schedule = RetrySchedule(base_s=0.1, cap_s=2.0)
    assert [round(schedule.delay_s(n, 0.5), 3) for n in (1, 2, 3, 5, 6, 2000)] == [0.1, 0.2, 0.4, 1.6, 2.0, 2.0]
    assert schedule.delay_s(50, 0.999) <= schedule.longest_s


@given(seed=st.integers(0, 2**32), count=st.integers(1, 60))
def test_everything_is_settled_or_parked_exactly_once(seed: int, count: int) -> None:
    rng = random.Random(seed)
    core = Settling(["a", "b"], RetrySchedule(base_s=0.1, cap_s=1.0, attempts=5), rng.random)
    ended: list[int] = []
    now = 0.0
    todo = list(range(1, count + 1))
    for _ in range(10_000):
        if todo and rng.random() < 0.3:
            ids = [todo.pop() for _ in range(min(len(todo), rng.randint(1, 9)))]
            names = rng.choice((["a"], ["b"], ["a", "b"]))
            core.add(rng.choice((CONFIRMING, CANCELLING)), dict.fromkeys(names, ids), attempts=rng.choice((0, 0, 2)))
        batch = core.take(rng.choice("ab"), 4, now)
        if batch is not None:
            assert 0 < len(batch.ids) <= 4
            bad = [t for t in batch.ids if rng.random() < 0.3]
            ended += core.failed(batch, bad, now).parked
            ended += core.succeeded(batch.participant, [t for t in batch.ids if t not in bad])
        now += rng.random() * 0.2
        if not todo and not len(core):
            break
    assert sorted(ended) == list(range(1, count + 1))
