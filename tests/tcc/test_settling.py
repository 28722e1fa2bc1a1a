"""Phase 2's queues: everybody is told, nobody waits for a poison, and budgets end."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from dougong.tcc import RetrySchedule, TransactionState
from dougong.tcc.settling import SettleBatch, Settling

CONFIRMING, CANCELLING = TransactionState.CONFIRMING, TransactionState.CANCELLING


def settling(attempts: int = 3, *, gather_s: float = 0.0) -> Settling:
    schedule = RetrySchedule(base_s=1.0, cap_s=8.0, attempts=attempts)
    return Settling(["a", "b"], schedule, lambda: 0.5, gather_s=gather_s)


def _ids(batch: SettleBatch | None) -> list[int]:
    return batch.ids if batch is not None else []


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


def test_confirms_gather_after_a_call_and_the_first_goes_at_once() -> None:
    core = settling(gather_s=0.5)
    core.add(CONFIRMING, {"a": [1]})
    assert _ids(core.take("a", 4, 7.0)) == [1]
    core.add(CONFIRMING, {"a": [2]})
    core.add(CONFIRMING, {"a": [3]})
    assert core.take("a", 4, 7.4) is None
    assert core.next_due("a") == 7.5
    assert _ids(core.take("a", 4, 7.5)) == [2, 3]
    assert core.next_due("a") is None
    core.add(CONFIRMING, {"a": [4]})
    assert _ids(core.take("a", 4, 9.0)) == [4]  # it was quiet for long enough


def test_a_full_batch_does_not_gather() -> None:
    core = settling(gather_s=0.5)
    core.add(CONFIRMING, {"a": [1]})
    assert _ids(core.take("a", 4, 0.0)) == [1]
    core.add(CONFIRMING, {"a": [2, 3, 4]})
    assert core.take("a", 4, 0.1) is None
    core.add(CONFIRMING, {"a": [5, 6]})
    assert _ids(core.take("a", 4, 0.1)) == [2, 3, 4]
    assert core.take("a", 4, 0.1) is None  # the rest is no full batch
    assert _ids(core.take("a", 4, 0.6)) == [5, 6]


def test_cancels_do_not_wait_behind_confirms_that_gather() -> None:
    core = settling(gather_s=0.5)
    for now in (0.0, 0.5, 1.0):
        core.add(CONFIRMING, {"a": [int(10 * now) + 1]})
        core.add(CANCELLING, {"a": [int(10 * now) + 2]})
        taken = core.take("a", 4, now), core.take("a", 4, now)
        assert [batch.state for batch in taken if batch] == [CONFIRMING, CANCELLING]


def test_one_participants_calls_say_nothing_about_anothers() -> None:
    core = settling(gather_s=0.5)
    core.add(CONFIRMING, {"a": [1], "b": [1]})
    assert _ids(core.take("a", 4, 0.0)) == [1]
    assert _ids(core.take("b", 4, 0.1)) == [1]


def test_a_retry_does_not_wait_for_what_gathers() -> None:
    core = settling(gather_s=5.0)
    core.add(CONFIRMING, {"a": [1]})
    batch = core.take("a", 4, 0.0)
    assert batch is not None
    core.failed(batch, [1], 0.0)
    core.add(CONFIRMING, {"a": [2]})
    assert core.next_due("a") == 1.0
    assert _ids(core.take("a", 4, 1.0)) == [1]
    assert core.next_due("a") == 5.0


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
    assert core.next_due("a") == 7.0
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
    schedule = RetrySchedule(base_s=0.1, cap_s=1.0, attempts=5)
    core = Settling(["a", "b"], schedule, rng.random, gather_s=rng.choice((0.0, 0.5)))
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
