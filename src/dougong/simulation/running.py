"""Seeds by the thousand, in worker processes: a story takes its thread, and one failing seed must not wait for others.

Seeds go out in small chunks in order; what is reported as the first failing seed is the lowest one of those told.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import signal
import time
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ProcessPoolExecutor

import msgspec

from dougong.errors import Internal
from dougong.simulation.shrinking import shrink
from dougong.simulation.story import Story, Telling, tell

__all__ = ["Progress", "first_difference", "run_seeds", "run_shrink", "run_traced"]

_CHUNK_S = 0.5
"""A chunk takes about so long: progress lives, and Ctrl-C is not waited for."""


class Progress(msgspec.Struct, frozen=True):
    """What a chunk of seeds brought."""

    first_seed: int
    told: int
    seconds: float
    faults: int
    failed: Sequence[Telling]


async def run_seeds(
    story: Story, first_seed: int, count: int, *, workers: int = 2, without: str = ""
) -> AsyncGenerator[Progress]:
    """Tell `count` seeds from `first_seed` on; yields what each chunk brought, in the order in which they end.

    Leaving the generator (`aclose`) ends the workers. The story travels by pickle: its `tell` is a module's function.
    """
    pool = _pool(workers)
    loop = asyncio.get_running_loop()
    under_way: set[asyncio.Future[Progress]] = set()
    next_seed, end, size = first_seed, first_seed + count, 1
    try:
        while next_seed < end or under_way:
            while next_seed < end and len(under_way) < workers * 2:
                chunk = range(next_seed, min(next_seed + size, end))
                under_way.add(loop.run_in_executor(pool, _tell_all, story, chunk, without))
                next_seed = chunk.stop
            done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            for future in done:
                progress = future.result()
                per_seed_s = progress.seconds / progress.told
                size = max(1, min(200, int(_CHUNK_S / max(per_seed_s, 1e-4))))
                yield progress
    finally:
        pool.shutdown(cancel_futures=True)


async def run_traced(story: Story, seed: int, *, without: str = "", logs: bool = True) -> tuple[Telling, str]:
    """One seed with its trace, told twice; and the first difference of the two traces, empty as it should be."""
    with _pool(1) as pool:
        return await asyncio.get_running_loop().run_in_executor(pool, _tell_twice, story, seed, without, logs)


async def run_shrink(story: Story, failed: Telling, *, without: str = "") -> Telling:
    """`shrink`, off the loop."""
    with _pool(1) as pool:
        return await asyncio.get_running_loop().run_in_executor(pool, _shrink, story, failed, without)


def first_difference(one: str, other: str) -> str:
    """Where two traces part ways; empty if they do not."""
    for first, second in zip([*one.splitlines(), "(the end)"], [*other.splitlines(), "(the end)"], strict=False):
        if first != second:
            return f"first  {first}\nsecond {second}"
    return ""


def _pool(workers: int) -> ProcessPoolExecutor:
    # Fresh processes: a fork would inherit running loops and threads of gRPC.
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_begin)


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to deal with
    gc.collect()
    gc.freeze()


def _tell_all(story: Story, seeds: range, without: str) -> Progress:
    started = time.perf_counter()
    faults = 0
    failed: list[Telling] = []
    for seed in seeds:
        told = tell(story, seed, without=without)
        faults += len(told.faults)
        if told.violations:
            failed.append(told)
    return Progress(seeds.start, len(seeds), time.perf_counter() - started, faults, failed)


def _tell_twice(story: Story, seed: int, without: str, logs: bool) -> tuple[Telling, str]:
    told = tell(story, seed, without=without, traced=True, logs=logs)
    again = tell(story, seed, without=without, traced=True, logs=logs)
    return told, first_difference(told.trace, again.trace)


def _shrink(story: Story, failed: Telling, without: str) -> Telling:
    best = shrink(story, failed, without=without)
    if not best.trace:
        again = tell(story, failed.seed, without=without, traced=True)
        if not again.violations:
            raise Internal(
                f"seed {failed.seed} of {story.name} failed once and not again: the story draws numbers or time from "
                "elsewhere than its world",
                code="not_repeatable",
            )
        best = again
    return best
