"""A bucket that is moved to and fro in simulated worlds; each safeguard, taken away, is missed."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Callable

import pytest
from tests.conftest import IN_CI
from tests.stories import (
    assert_all_tested,
    assert_found_without,
    assert_nothing_found,
    assert_told_again,
    assert_well_told,
)

from dougong.shard import Mover
from dougong.shard.databases import Databases
from dougong.shard.moving.moves import Moves
from dougong.shard.moving.record import MoveRecord, Phase
from dougong.shard.moving.switching import rescue
from dougong.simulation import Chaos, Outcome, World
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
LIKELY = {"token": 88, "numbers": 54}
"""Seeds that find what few find."""


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_fresh_seeds_find_nothing(chunk: int, record_property: Callable[[str, object], None]) -> None:
    assert_nothing_found(story, SEEDS, record_property)


@pytest.mark.parametrize(
    ("without", "said"),
    [
        ("notes", "shows"),
        ("clearing", "is there"),
        ("fence", "shows"),
        ("drain", "shows"),
        ("release", "not over"),  # the old owner stands in the way of the next move
        ("token", "does not have what"),  # a mover that is given up for dead goes on writing into the target
        ("gone", "owned by"),
        ("needed", "does not have what"),
        ("numbers", "does not have what"),
        ("tidying", "still takes notes"),
    ],
)
def test_a_missing_safeguard_is_found(without: str, said: str) -> None:
    assert_found_without(story, without, said, seeds=1000, likely=LIKELY.get(without, 0))


def test_every_safeguard_has_its_test() -> None:
    assert_all_tested(story, test_a_missing_safeguard_is_found)


def test_a_seed_is_told_again_line_by_line() -> None:
    assert_told_again(story)


def test_the_story_tells_of_what_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Moves end in every way, fences fail and are lifted by others, and much is written and read meanwhile."""
    seen: Counter[str] = Counter()
    advance, switch, open_again = Moves.advance, Moves.switch, Mover._open_again

    async def advanced(self: Moves, record: MoveRecord, phase: Phase, **more: object) -> MoveRecord:
        after = await advance(self, record, phase, **more)  # type: ignore[arg-type]
        if phase is Phase.DONE:
            seen[after.outcome] += 1
        return after

    async def switched(self: Moves, record: MoveRecord) -> MoveRecord:
        after = await switch(self, record)
        seen["switches"] += 1
        seen["switches back"] += after.switches > 1
        return after

    async def opened(self: Mover, bucket: int) -> MoveRecord | None:
        seen["fences that failed"] += 1
        return await open_again(self, bucket)

    async def rescued(moves: Moves, databases: Databases, record: MoveRecord) -> bool:
        done = await rescue(moves, databases, record)
        seen["rescues"] += done
        return done

    monkeypatch.setattr(Moves, "advance", advanced)
    monkeypatch.setattr(Moves, "switch", switched)
    monkeypatch.setattr(Mover, "_open_again", opened)
    monkeypatch.setattr("dougong.shard.sharded.rescue", rescued)

    def look(world: World) -> None:
        for call in world.history.calls:
            seen[f"{call.what} {call.outcome.value}"] += 1
        for line in world.trace().splitlines():
            seen["is killed"] += "is killed" in line

    assert_well_told(story, 20, look)
    enough = {
        "raise ok": 600, "read ok": 200, "come ok": 200, "go ok": 100, "is killed": 40,
        "switches": 16, "switches back": 4, "moved": 8, "reversed": 1, "cancelled": 2,
        "fences that failed": 1, "rescues": 3,
    }  # fmt: skip
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
