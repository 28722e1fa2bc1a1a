"""A bucket that is moved to and fro in simulated worlds; each safeguard, taken away, is missed."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec
import pytest
from tests.conftest import IN_CI

from dougong.shard.moving.record import Phase
from dougong.simulation import Chaos, Outcome, World, tell
from dougong.simulation.node import Process
from dougong.simulation.stories.move import (
    BUCKET,
    SETTINGS,
    Writer,
    judge,
    open_router,
    story,
    watch_owners,
)
from dougong.simulation.stories.move_without import mover_without

CHUNKS = 6
SEEDS = 15 if IN_CI else 3
"""Of each chunk: chunks are shared out among the tests' processes."""


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_fresh_seeds_find_nothing(chunk: int, record_property: Callable[[str, object], None]) -> None:
    first = secrets.randbelow(2**32)
    record_property("seeds", f"move {first} to {first + SEEDS - 1}")
    for seed in range(first, first + SEEDS):
        told = tell(story, seed)
        assert not told.violations, f"dougong simulate move --seed {seed}: {told.violations}"


@pytest.mark.parametrize(
    ("without", "said"),
    [
        ("notes", "shows"),
        ("clearing", "is there"),
        ("fence", "shows"),
        ("drain", "shows"),
        ("release", "not over"),  # the old owner stands in the way of the next move
        ("token", ""),  # whatever a mover that is given up for dead may break
        ("gone", "owned by"),
    ],
)
def test_a_missing_safeguard_is_found(without: str, said: str) -> None:
    for seed in range(1000):
        told = tell(story, seed, without=without)
        if any(said in violation for violation in told.violations):
            return
    pytest.fail(f"1,000 seeds without {without} found nothing: the story is blind")


def test_every_safeguard_has_its_test() -> None:
    (tested,) = (mark.args[1] for mark in test_a_missing_safeguard_is_found.pytestmark)  # type: ignore[attr-defined]
    assert {without for without, _ in tested} == set(story.safeguards)


def test_a_seed_is_told_again_line_by_line() -> None:
    one, other = (tell(story, 7, traced=True, logs=True) for _ in range(2))
    assert one.trace == other.trace


def test_the_story_tells_of_what_matters() -> None:
    """Moves end in every way, and much is written and read meanwhile."""
    seen: Counter[str] = Counter()

    async def watched(world: World, without: str) -> Sequence[str]:
        found = await story.tell(world, without)
        for call in world.history.calls:
            seen[f"{call.what} {call.outcome.value}"] += 1
        for line in world.trace().splitlines():
            seen["is killed"] += "is killed" in line
        row = world.database("map").memory.fetch_one("SELECT number, switches FROM dougong_moves")
        assert row is not None
        seen["moves"] += int(str(row[0]))
        seen["switches"] += int(str(row[1]))
        return found

    for seed in range(10):
        assert not tell(msgspec.structs.replace(story, tell=watched), seed).violations
    enough = {"raise ok": 300, "read ok": 100, "come ok": 100, "go ok": 50, "moves": 20, "switches": 8, "is killed": 20}
    for what, least in enough.items():
        assert seen[what] >= least, (what, seen)
    assert seen[f"raise {Outcome.UNKNOWN.value}"]


def crashed_at(step: int) -> tuple[list[str], bool]:
    """One whole move there and back, whose mover dies after so many steps: what is wrong, and whether it died."""
    died = False

    async def told(world: World) -> list[str]:
        nonlocal died
        found: list[str] = []
        ended: list[bool] = []

        async def route(process: Process) -> None:
            await Writer(world, process, await open_router(process)).work()

        async def move(process: Process) -> None:
            router = await open_router(process)
            mover = mover_without("")(router, name="mover", settings=SETTINGS)
            while True:
                record = await router.moves.get(BUCKET)
                if record is None:
                    await mover.move(BUCKET, "db-1")
                elif record.phase is Phase.DONE:
                    break
                elif record.phase is Phase.REVERSIBLE:
                    await (mover.reverse if record.switches == 1 else mover.complete)(BUCKET)
                else:
                    await mover.resume(BUCKET)
            ended.append(True)

        world.node("router-1").start(route)
        watching = world.spawn(watch_owners(world, found))
        world.node("mover").start(move)
        world.node("mover").crash(after_callbacks=step)
        for _ in range(600):
            await asyncio.sleep(0.1)
            if not world.node("mover").up:
                died = True
                world.node("mover").restart()
            if ended:
                break
        world.node("router-1").stop()
        watching.cancel()
        return [*found, *([] if ended else ["the move does not end"]), *judge(world, None)]

    world = World(step, chaos=Chaos(write_s=0.01))
    return [*world.run(told(world)), *world.failures], died


def test_a_mover_may_die_at_every_step() -> None:
    """At each step there is, or at some of them: with DOUGONG_EVERY_STEP all are tried, which takes minutes."""
    stride = 1 if os.environ.get("DOUGONG_EVERY_STEP") else 16 if IN_CI else 64
    step, tried = 1 + random.randrange(stride), 0
    while True:
        found, died = crashed_at(step)
        assert not found, (step, found)
        if not died:
            break
        tried += 1
        step += stride
    assert tried * stride > 150
