"""The loop: time that costs nothing, order from the seed, and an end to worlds that have none."""

from __future__ import annotations

import asyncio
import contextvars
import random
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

import pytest

from dougong.simulation import Stuck, VirtualLoop, World

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T], seed: int = 1, **bounds: Any) -> T:
    loop = VirtualLoop(random.Random(seed), **bounds)
    try:
        return loop.run_until_complete(main)
    finally:
        loop.close()


def test_a_year_passes_at_once() -> None:
    async def wait() -> float:
        await asyncio.sleep(365 * 86400.0)
        return asyncio.get_running_loop().time()

    started = time.monotonic()
    assert run(wait(), virtual_s_max=1e9) == 365 * 86400.0
    assert time.monotonic() - started < 60  # a year, not a minute


def test_time_passes_only_when_nobody_can_run() -> None:
    async def busy() -> float:
        for _ in range(1000):
            await asyncio.sleep(0)
        return asyncio.get_running_loop().time()

    assert run(busy()) == 0.0


def order_of(seed: int) -> list[int]:
    async def race() -> list[int]:
        order: list[int] = []

        async def runner(number: int) -> None:
            await asyncio.sleep(1.0)
            order.append(number)

        await asyncio.gather(*(runner(number) for number in range(6)))
        return order

    return run(race(), seed)


def test_who_runs_first_is_the_seeds_choice() -> None:
    orders = {tuple(order_of(seed)) for seed in range(40)}
    assert len(orders) > 20
    assert order_of(7) == order_of(7)


def test_what_a_round_makes_ready_runs_in_the_next_one() -> None:
    async def rounds() -> list[str]:
        seen: list[str] = []
        loop = asyncio.get_running_loop()

        def first() -> None:
            loop.call_soon(seen.append, "second round")

        for _ in range(5):
            loop.call_soon(seen.append, "first round")
            loop.call_soon(first)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return seen

    for seed in range(10):
        assert run(rounds(), seed) == ["first round"] * 5 + ["second round"] * 5


def test_the_usual_tools_work() -> None:
    async def work() -> list[object]:
        queue: asyncio.Queue[int] = asyncio.Queue(1)
        lock, results = asyncio.Lock(), list[object]()

        async def produce() -> None:
            for number in range(3):
                async with lock:
                    await queue.put(number)

        async with asyncio.TaskGroup() as group:
            producer = group.create_task(produce())
            for _ in range(3):
                results.append(await queue.get())
        assert producer.done()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5.0):
                await asyncio.Event().wait()
        results.append(asyncio.get_running_loop().time())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 2.0)
        results.append(asyncio.get_running_loop().time())
        done, pending = await asyncio.wait(
            {asyncio.create_task(asyncio.sleep(1.0)), asyncio.create_task(asyncio.sleep(9.0))},
            return_when=asyncio.FIRST_COMPLETED,
        )
        results.append((len(done), len(pending)))
        return results

    assert run(work()) == [0, 1, 2, 5.0, 7.0, (1, 1)]


def test_cancelling_and_context_work() -> None:
    number: contextvars.ContextVar[int] = contextvars.ContextVar("number", default=0)

    async def work() -> list[object]:
        seen: list[object] = []

        async def sleeper() -> None:
            try:
                await asyncio.sleep(100.0)
            except asyncio.CancelledError:
                seen.append(number.get())
                raise

        number.set(3)
        task = asyncio.create_task(sleeper())
        number.set(4)
        await asyncio.sleep(1.0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return [*seen, task.cancelled(), asyncio.get_running_loop().time()]

    assert run(work()) == [3, True, 1.0]


def test_sets_of_tasks_have_an_order_that_repeats() -> None:
    """A set is ordered by hash, and an address would be another one in every run."""

    async def cancel_all() -> list[str]:
        order: list[str] = []

        async def wait(name: str) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                order.append(name)

        tasks = {asyncio.create_task(wait(f"t{number}")) for number in range(50)}
        await asyncio.sleep(1.0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        return order

    assert len({tuple(run(cancel_all(), 5)) for _ in range(5)}) == 1


def test_everybody_waiting_for_somebody_is_reported_with_where_they_wait() -> None:
    async def wait_for_nobody() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        await asyncio.gather(wait_for_nobody(), wait_for_nobody())

    with pytest.raises(Stuck, match="everybody waits for somebody") as caught:
        run(main())
    assert "in wait_for_nobody" in str(caught.value)
    assert "2 × the world" in str(caught.value)


def test_a_world_without_end_is_ended() -> None:
    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    async def tick() -> None:
        while True:
            await asyncio.sleep(1.0)

    with pytest.raises(Stuck, match="no end after 1001 callbacks"):
        run(spin(), callbacks_max=1000)
    with pytest.raises(Stuck, match=r"no end after 50\.000 s"):
        run(tick(), virtual_s_max=50.0)


def test_threads_are_refused_with_the_function_that_wanted_one() -> None:
    def block() -> None: ...

    with pytest.raises(NotImplementedError, match=r"block would run in a thread"):
        run(asyncio.to_thread(block))


def test_what_is_left_at_the_end_is_thrown_away_without_effect() -> None:
    seen: list[str] = []

    async def left() -> None:
        try:
            await asyncio.sleep(1000.0)
        finally:
            seen.append("finally")
            await asyncio.sleep(1.0)
            seen.append("never")

    async def generate() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await asyncio.sleep(1.0)
            seen.append("never, too")

    async def consume() -> None:
        async for _ in generate():
            await asyncio.sleep(1000.0)

    async def main() -> None:
        tasks = [asyncio.create_task(left()), asyncio.create_task(consume())]
        await asyncio.sleep(1.0)
        assert not any(task.done() for task in tasks)

    run(main())
    assert seen == ["finally"]


def test_a_callback_that_fails_is_the_worlds_failure() -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_later(1.0, lambda: 1 // 0)
        await asyncio.sleep(2.0)

    with pytest.raises(ZeroDivisionError):
        run(main())
    world = World(1)
    world.run(main())
    assert "ZeroDivisionError" in world.failures[0]
