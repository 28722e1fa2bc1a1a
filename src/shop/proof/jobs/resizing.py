"""An operator's number under load: how long until a worker follows it, and what becomes of the jobs that run.

Jobs come all the time, thousands wait, and the worker is told to run many at once, then few, from this process: by the
call of the contract that `dougong jobs resize` makes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import msgspec

from dougong.jobs import Jobs, JobsService, ResizeQueue
from shop.proof.jobs.our_jobs import FEW, MANY, OnSqlite, busy
from shop.proof.jobs.stand import Stand

__all__ = ["Resized", "resize_problems", "resized"]

_WAITING, _A_ROUND = 2_000, 2_000
"""Jobs that wait all the time, and those that may run in a round."""
_HOLD_S = 0.7
_UNEVEN_S = 0.13
"""Each number holds longer by this, so that commands meet the worker at other moments between its looks."""
_LOOK_S = 0.002
_ENOUGH = 0.95
"""Of what may run at once: where one ends and the next is to begin, a moment's look sees fewer."""


class Resized(msgspec.Struct, frozen=True):
    """What came of it."""

    times: int
    """That another number was said."""
    longest_s: float
    """From before a command until as many ran as it says, or no more than that."""
    jobs: int
    lost: int
    interrupted: int
    """Began and did not end, or ran twice."""
    most: int
    """Ran at once while few should, after the worker had followed."""
    waiting: int
    """Were left when the last number was said."""


async def resized(queued: OnSqlite, started: Stand, *, rounds: int, patience_s: float = 20.0) -> Resized:
    """From few to many and back, so often; a command that is not followed counts as `patience_s`.

    `started` is a stand of jobs that are busy, whose worker runs few at once. All that were enqueued run in the end.
    """
    desk = JobsService(Jobs(queued.queue, [busy]))
    tally, first = started.tally, started.next
    stop = min(first + _WAITING + _A_ROUND * rounds, tally.room)

    async def follows(limit: int, done: Callable[[], bool]) -> float:
        began = time.monotonic()
        await desk.resize(ResizeQueue(queue="default", concurrency=limit))
        while not done() and time.monotonic() < began + patience_s:  # noqa: ASYNC110 (another process does it)
            await asyncio.sleep(_LOOK_S)
        return time.monotonic() - began

    def at_once() -> int:
        return tally.at_once(stop, first)

    took_s: list[float] = []
    most = waiting = 0
    load = asyncio.create_task(started.enqueue(count=stop - first, window=_WAITING))
    while await queued.left() < _WAITING // 2 and not load.done():  # noqa: ASYNC110 (the same)
        await asyncio.sleep(_LOOK_S)
    for number in range(rounds):
        took_s.append(await follows(MANY, lambda: at_once() >= _ENOUGH * MANY))
        await asyncio.sleep(_HOLD_S + _UNEVEN_S * number)
        waiting = await queued.left()
        took_s.append(await follows(FEW, lambda: at_once() <= FEW))
        until = time.monotonic() + _HOLD_S
        while time.monotonic() < until:
            most = max(most, at_once())
            await asyncio.sleep(_LOOK_S)
    await desk.resize(ResizeQueue(queue="default", concurrency=MANY))
    await load
    lost = await started.finish(first)
    return Resized(
        times=len(took_s),
        longest_s=max(took_s),
        jobs=started.next - first,
        lost=lost,
        interrupted=at_once() + tally.doubled(started.next, first),
        most=most,
        waiting=waiting,
    )


def resize_problems(resized: Resized) -> Sequence[str]:
    """What refutes that jobs waited all the time, that all of them ran, and that no more ran at once than may."""
    problems: list[str] = []
    if resized.waiting < MANY:
        problems.append(f"only {resized.waiting} jobs waited while the worker was resized")
    if resized.lost:
        problems.append(f"{resized.lost} of {resized.jobs:,} jobs did not run while the worker was resized")
    if resized.most > FEW:
        problems.append(f"{resized.most} jobs ran at once where {FEW} may")
    return problems
