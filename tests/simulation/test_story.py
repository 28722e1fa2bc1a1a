"""A seed is a story: the same one each time, in each process."""

from __future__ import annotations

import asyncio
import importlib
import os
import pkgutil
import random
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.simulation.counter import counter

from dougong.errors import Invalid
from dougong.simulation import (
    Outcome,
    Story,
    World,
    find_story,
    first_difference,
    run_seeds,
    run_shrink,
    run_traced,
    stories,
    tell,
)
from dougong.simulation.stories.tcc import story as tcc

ROOT = Path(__file__).parents[2]


@settings(max_examples=15)
@given(st.integers(0, 2**32))
def test_a_careful_counter_loses_nothing(seed: int) -> None:
    assert tell(counter, seed).violations == []


def test_without_care_it_does_and_some_seed_finds_it() -> None:
    assert any(tell(counter, seed, without="care").violations for seed in range(100))


@pytest.mark.parametrize("story", [counter, tcc], ids=lambda story: story.name)
def test_a_seed_has_one_trace(story: Story) -> None:
    first = tell(story, 7, traced=True)
    random.random()  # somebody else's numbers are not the world's
    second = tell(story, 7, traced=True)
    assert first.trace == second.trace
    assert first == second
    assert first_difference(first.trace, second.trace) == ""
    assert tell(story, 8, traced=True).trace != first.trace


SCRIPT = """
import hashlib
from tests.simulation.counter import counter
from dougong.simulation import tell
from dougong.simulation.stories.tcc import story
traces = [tell(s, seed, traced=True, logs=True).trace for s in (counter, story) for seed in (3, 4)]
print([hashlib.sha256(trace.encode()).hexdigest() for trace in traces], [len(trace) > 1000 for trace in traces])
"""


def test_a_seed_has_one_trace_in_every_process() -> None:
    """Whatever text hashes to, wherever objects lie in memory."""
    said = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": hashes, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hashes in ("0", "1", "12345")
    }
    assert len(said) == 1
    assert "True, True, True, True" in said.pop()


async def _unseeded(world: World, without: str) -> Sequence[str]:
    world.note("story", f"draws {random.SystemRandom().random()}")
    return []


def test_a_story_that_draws_from_elsewhere_is_told_apart() -> None:
    story = Story(name="unseeded", title="", tell=_unseeded)
    difference = first_difference(tell(story, 1, traced=True).trace, tell(story, 1, traced=True).trace)
    assert difference.startswith("first ")
    assert "story          draws" in difference


def test_random_numbers_that_nobody_seeded_are_the_seeds_too_and_given_back() -> None:
    async def draw() -> float:
        return random.random()

    random.seed(5)
    before = random.getstate()
    assert World(1).run(draw()) == World(1).run(draw()) != World(2).run(draw())
    assert random.getstate() == before


async def _stuck(world: World, without: str) -> Sequence[str]:
    await asyncio.Event().wait()
    return []


async def _wrong(world: World, without: str) -> Sequence[str]:
    assert world.seed < 0, "no seed is negative"
    return []


def test_a_story_that_gets_stuck_or_is_wrong_is_a_violation() -> None:
    (stuck,) = tell(Story(name="stuck", title="", tell=_stuck), 1).violations
    assert stuck.startswith("everybody waits for somebody")
    assert "in _stuck" in stuck
    (wrong,) = tell(Story(name="wrong", title="", tell=_wrong), 1).violations
    assert wrong.startswith("assertion failed: no seed is negative")


async def _talks(world: World, without: str) -> Sequence[str]:
    structlog.get_logger("x").warning("something_odd", count=3, error=ValueError("at 0x7f"))
    return []


def test_logs_are_part_of_the_trace_when_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    story = Story(name="talks", title="", tell=_talks)
    before = structlog.get_config()
    assert "log count=3 event=something_odd" in tell(story, 1, traced=True, logs=True).trace
    assert tell(story, 1, traced=True).trace == ""
    assert capfd.readouterr().err == ""
    assert structlog.get_config() == before


def test_a_history_knows_what_clients_know() -> None:
    async def main(world: World) -> None:
        first, second, third = (world.history.invoke("c", "place", number) for number in range(3))
        await asyncio.sleep(1.0)
        world.history.ok(first, "yes")
        world.history.fail(second, "no")
        assert third.outcome is Outcome.UNKNOWN

    world = World(1)
    world.run(main(world))
    first, second, third = world.history.calls
    assert (first.outcome, first.result, first.began_s, first.ended_s) == (Outcome.OK, "yes", 0.0, 1.0)
    assert (second.outcome, second.result) == (Outcome.FAILED, "no")
    assert third.ended_s is None
    world.history.ok(third)  # too late: the world is over
    assert third.outcome is Outcome.UNKNOWN
    assert len(world.history.calls) == 3
    assert "c              invoke place 2" in world.trace()


async def test_a_world_does_not_run_inside_a_running_loop() -> None:
    async def nothing() -> None: ...

    main = nothing()
    with pytest.raises(RuntimeError, match=r"takes its thread.*asyncio\.to_thread"):
        World(1).run(main)
    main.close()
    assert asyncio.get_running_loop().is_running()
    await asyncio.to_thread(World(1).run, nothing())


async def test_workers_tell_every_seed_once_and_report_the_failing_ones() -> None:
    told, failed, firsts = 0, list[int](), list[int]()
    async for progress in run_seeds(counter, 100, 40, workers=2, without="care"):
        told += progress.told
        firsts.append(progress.first_seed)
        failed += [telling.seed for telling in progress.failed]
    assert told == 40
    assert len(set(firsts)) == len(firsts)
    here = await asyncio.to_thread(lambda: [tell(counter, seed, without="care") for seed in range(100, 140)])
    assert sorted(failed) == [telling.seed for telling in here if telling.violations]
    traced, difference = await run_traced(counter, failed[0], without="care")
    assert (traced.seed, difference) == (failed[0], "")
    least = await run_shrink(counter, traced, without="care")
    assert least.violations
    assert least.trace


def declare(folder: Path, entries: str) -> None:
    """A project on sys.path that declares stories."""
    info = folder / "stories.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stories\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[dougong.simulations]\n{entries}\n")


def test_stories_are_found_by_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declare(tmp_path, "counter = tests.simulation.counter:counter\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert find_story("counter").title == "a counter that is added to"


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("a = tests.simulation.counter:nothing", "cannot be loaded"),
        ("a = tests.simulation.counter:TABLE", "is not a Story"),
    ],
)
def test_an_entry_point_that_is_no_story_is_named(
    entry: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(tmp_path, entry)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Invalid, match=f"'a' of dougong.simulations .*{says}"):
        find_story("a")


def test_every_story_of_ours_is_declared() -> None:
    """From the sources: what is installed here may be older."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["dougong.simulations"]
    found: dict[str, str] = {}
    for module in pkgutil.walk_packages(stories.__path__, f"{stories.__name__}."):
        story = getattr(importlib.import_module(module.name), "story", None)
        if isinstance(story, Story):
            found.setdefault(story.name, f"{module.name}:story")
    assert found.items() <= declared.items()
