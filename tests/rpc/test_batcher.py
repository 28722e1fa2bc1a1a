"""The shell around the queue: tasks, futures, time, cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dougong.errors import DeadlineExceeded, Error, Internal, Invalid, Overloaded, Unavailable
from dougong.rpc import Batcher, Caller, call_scope, current_caller, remaining_s
from dougong.rpc import batcher as batcher_module


class Echo:
    """A `many` that waits at a gate and remembers what it was given."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.running = 0
        self.most = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, requests: Sequence[int]) -> list[int | Error]:
        self.batches.append(list(requests))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(0)
            await self.gate.wait()
            return [Invalid(f"{r}") if r < 0 else r * 10 for r in requests]
        finally:
            self.running -= 1


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_calls_in_one_breath_ride_together_and_later_ones_in_the_next_batch() -> None:
    echo = Echo()
    batcher = Batcher(echo, max_batch=100, max_in_flight=1)
    echo.gate.clear()
    first = [asyncio.create_task(batcher.one(i)) for i in range(3)]
    await settled()
    later = [asyncio.create_task(batcher.one(i)) for i in range(3, 8)]
    await settled()
    assert echo.batches == [[0, 1, 2]]
    echo.gate.set()
    assert await asyncio.gather(*first, *later) == [i * 10 for i in range(8)]
    assert echo.batches == [[0, 1, 2], [3, 4, 5, 6, 7]]


async def test_a_long_list_is_cut_and_comes_back_in_order() -> None:
    echo = Echo()
    batcher = Batcher(echo, max_batch=7, max_in_flight=3)
    assert await batcher.many(range(100)) == [i * 10 for i in range(100)]
    assert max(map(len, echo.batches)) == 7
    assert echo.most == 3


async def test_one_raises_what_many_returns() -> None:
    batcher = Batcher(Echo(), max_batch=7, max_in_flight=3)
    assert await batcher.many([1, -2, 3]) == [10, Invalid("-2"), 30]
    with pytest.raises(Invalid, match="-2"):
        await batcher.one(-2)


async def test_a_cancelled_caller_harms_nobody() -> None:
    echo = Echo()
    batcher = Batcher(echo, max_batch=3, max_in_flight=1)
    echo.gate.clear()
    in_flight = asyncio.create_task(batcher.many([1, 2]))
    neighbour = asyncio.create_task(batcher.many([3, 4]))
    waiting = asyncio.create_task(batcher.many([5]))
    last = asyncio.create_task(batcher.many([6]))
    await settled()
    in_flight.cancel()
    waiting.cancel()
    await settled()
    echo.gate.set()
    assert await neighbour == [30, 40]
    assert await last == [60]
    assert in_flight.cancelled()
    assert waiting.cancelled()
    assert all(5 not in batch for batch in echo.batches), "given up before it was sent"
    assert batcher.pending == 0


async def test_a_full_queue_refuses_at_once_and_takes_again_later() -> None:
    echo = Echo()
    batcher = Batcher(echo, max_batch=2, max_in_flight=1, max_pending=4)
    echo.gate.clear()
    running = asyncio.create_task(batcher.many([1, 2]))
    await settled()
    queued = asyncio.create_task(batcher.many([3, 4, 5]))
    await settled()
    (refused, also) = await batcher.many([6, 7])
    assert isinstance(refused, Overloaded)
    assert refused.code == "queue_full"
    assert refused.retry_after_s
    assert isinstance(also, Overloaded)
    echo.gate.set()
    assert await running == [10, 20]
    assert await queued == [30, 40, 50]
    assert await batcher.one(6) == 60


async def test_each_caller_has_its_own_deadline_and_keeps_what_was_answered() -> None:
    echo = Echo()
    batcher = Batcher(echo, max_batch=2, max_in_flight=1)

    async def hurried() -> list[int | Error]:
        with call_scope(timeout_s=0.05):
            return await batcher.many([1, 2, 3, 4])

    gates = asyncio.Event()

    async def slow_second(requests: Sequence[int]) -> list[int | Error]:
        if 3 in requests:
            await gates.wait()
        return [r * 10 for r in requests]

    batcher = Batcher(slow_second, max_batch=2, max_in_flight=1)
    patient = asyncio.create_task(batcher.many([]))
    got = await hurried()
    assert got[:2] == [10, 20]
    assert all(isinstance(outcome, DeadlineExceeded) for outcome in got[2:])
    gates.set()
    assert await patient == []
    assert await batcher.one(7) == 70


async def test_a_batch_is_given_up_at_the_latest_deadline_of_its_members() -> None:
    stuck = asyncio.Event()

    async def never(requests: Sequence[int]) -> list[int | Error]:
        stuck.set()
        await asyncio.Event().wait()
        return list(requests)

    batcher = Batcher(never, max_batch=2, max_in_flight=1, timeout_s=0.05)
    outcome = (await batcher.many([1]))[0]
    assert isinstance(outcome, DeadlineExceeded)
    assert stuck.is_set()
    with pytest.raises(DeadlineExceeded):  # the slot is free again: this one is sent too, not stuck behind the first
        await batcher.one(2)


async def test_what_many_raises_becomes_every_items_outcome() -> None:
    async def broken(requests: Sequence[int]) -> list[int | Error]:
        if requests[0] == 0:
            raise ValueError("secret detail")
        if requests[0] == 1:
            raise Unavailable("gone", code="gone")
        return []

    batcher = Batcher(broken, max_batch=2, max_in_flight=1)
    fault = (await batcher.many([0]))[0]
    assert isinstance(fault, Internal)
    assert "secret" not in str(fault)
    assert isinstance(fault.__cause__, ValueError)
    assert await batcher.many([1, 5]) == [Unavailable("gone", code="gone")] * 2
    short = (await batcher.many([2]))[0]
    assert isinstance(short, Internal)
    assert short.code == "bad_batch"


async def test_batches_do_not_inherit_the_first_callers_identity() -> None:
    seen: list[Caller | None] = []

    async def who(requests: Sequence[int]) -> list[int | Error]:
        seen.append(current_caller())
        assert remaining_s() is None
        return list(requests)

    mixed = Batcher(who, max_batch=10, max_in_flight=1)
    by_caller = Batcher(who, max_batch=10, max_in_flight=1, by_caller=True)
    anna, otto = Caller("anna"), Caller("otto")

    async def call(batcher: Batcher[int, int], caller: Caller) -> None:
        with call_scope(caller=caller):
            await batcher.one(1)

    await asyncio.gather(call(mixed, anna), call(mixed, otto))
    assert seen == [None]
    seen.clear()
    await asyncio.gather(call(by_caller, anna), call(by_caller, otto), call(by_caller, anna))
    assert seen == [anna, otto]


async def test_close_answers_everybody() -> None:
    echo = Echo()
    batcher = Batcher(echo, max_batch=1, max_in_flight=1)
    echo.gate.clear()
    calls = [asyncio.create_task(batcher.many([i])) for i in range(3)]
    await settled()
    await batcher.close()
    for call in calls:
        (outcome,) = await call
        assert isinstance(outcome, Unavailable)
        assert outcome.code == "closed"
    (outcome,) = await batcher.many([1])
    assert isinstance(outcome, Unavailable)
    assert echo.running == 0


async def test_fewer_in_flight_takes_effect_without_losing_anybody() -> None:
    echo = Echo()
    batcher = Batcher(echo, max_batch=1, max_in_flight=8)
    echo.gate.clear()
    calls = [asyncio.create_task(batcher.one(i)) for i in range(30)]
    await settled()
    assert echo.running == 8
    batcher.max_in_flight = 1
    echo.most = 0
    echo.gate.set()
    assert await asyncio.gather(*calls) == [i * 10 for i in range(30)]


async def test_a_small_batch_waits_for_the_one_under_way_a_full_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batcher_module, "_SLOW", 1e6)
    echo = Echo()
    batcher = Batcher(echo, max_batch=4, max_in_flight=3, eager=1)
    echo.gate.clear()
    calls = [asyncio.create_task(batcher.one(0))]
    await settled()
    calls += [asyncio.create_task(batcher.one(i)) for i in (1, 2, 3)]
    await settled()
    assert echo.batches == [[0]], "three of four may wait"
    calls.append(asyncio.create_task(batcher.one(4)))
    await settled()
    assert echo.batches == [[0], [1, 2, 3, 4]]
    more = asyncio.create_task(batcher.many(range(5, 14)))  # two full ones, of which one has room, and one item
    await settled()
    assert echo.batches[2:] == [[5, 6, 7, 8]]
    echo.gate.set()
    await asyncio.gather(more, *calls)
    assert echo.batches[3:] == [[9, 10, 11, 12], [13]]


@pytest.mark.parametrize("slow", [2.0, 1e6])
async def test_nobody_waits_for_somebody_else_s_slow_request(slow: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ablation: without it, one request that hangs holds up all that come after."""
    monkeypatch.setattr(batcher_module, "_SLOW", slow)
    hanging = asyncio.Event()

    async def many(requests: Sequence[int]) -> list[int | Error]:
        if 0 in requests:
            await hanging.wait()
        return list(requests)

    batcher = Batcher(many, max_batch=100, max_in_flight=2, eager=1)
    stuck = asyncio.create_task(batcher.one(0))
    await settled()
    others = [asyncio.create_task(batcher.one(i)) for i in range(1, 4)]
    if slow == 2.0:
        async with asyncio.timeout(60):
            assert await asyncio.gather(*others) == [1, 2, 3]
            assert [await batcher.one(i) for i in range(4, 50)] == list(range(4, 50))
        assert not stuck.done()
    else:
        await asyncio.wait(others, timeout=0.2)
        assert not any(other.done() for other in others)
    hanging.set()
    await asyncio.gather(stuck, *others)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 12), st.integers(0, 6), st.sampled_from(["wait", "cancel", "hurry"])),
        min_size=1,
        max_size=12,
    ),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 2**32),
)
def test_every_request_has_exactly_one_outcome(
    calls: list[tuple[int, int, str]], max_batch: int, max_in_flight: int, eager: int, seed: int
) -> None:
    """Callers that wait, are cancelled or run out of time, over a `many` that takes its time and sometimes fails."""
    random = Random(seed)
    sent: list[int] = []
    running = 0

    async def many(requests: Sequence[int]) -> list[int | Error]:
        nonlocal running
        running += 1
        assert running <= max_in_flight
        assert len(requests) <= max_batch
        sent.extend(requests)
        try:
            for _ in range(random.randrange(4)):
                await asyncio.sleep(0)
            if random.random() < 0.2:
                raise Unavailable("by chance")
            return [r * 10 for r in requests]
        finally:
            running -= 1

    async def scenario() -> None:
        batcher = Batcher(many, max_batch=max_batch, max_in_flight=max_in_flight, eager=eager)
        serial = 0
        tasks: list[tuple[asyncio.Task[list[int | Error]], range, str]] = []

        async def call(items: range, fate: str) -> list[int | Error]:
            with call_scope(timeout_s=0.0 if fate == "hurry" else None):
                return await batcher.many(items)

        for count, pause, fate in calls:
            items = range(serial, serial + count)
            serial += count
            tasks.append((asyncio.create_task(call(items, fate)), items, fate))
            for _ in range(pause):
                await asyncio.sleep(0)
            if fate == "cancel":
                tasks[-1][0].cancel()
        for task, items, _fate in tasks:
            try:
                outcomes = await task
            except asyncio.CancelledError:
                assert task.cancelled()
                continue
            assert len(outcomes) == len(items)
            for item, outcome in zip(items, outcomes, strict=True):
                assert outcome == item * 10 or isinstance(outcome, Unavailable | DeadlineExceeded)
        await settled()
        assert batcher.pending == 0
        await batcher.close()
        assert running == 0
        assert len(sent) == len(set(sent)), "nothing is sent twice"

    asyncio.run(scenario())
