"""Minters in simulated worlds; each safeguard, taken away, is missed."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec
import pytest
from tests.conftest import IN_CI

from dougong.simulation import Outcome, World, tell
from dougong.simulation.stories.ids import story

CHUNKS = 6
SEEDS = 50 if IN_CI else 5
"""Of each chunk: chunks are shared out among the tests' processes."""


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_fresh_seeds_find_nothing(chunk: int, record_property: Callable[[str, object], None]) -> None:
    first = secrets.randbelow(2**32)
    record_property("seeds", f"ids {first} to {first + SEEDS - 1}")
    for seed in range(first, first + SEEDS):
        told = tell(story, seed)
        assert not told.violations, f"dougong simulate ids --seed {seed}: {told.violations}"


@pytest.mark.parametrize(
    ("without", "said"),
    [
        ("lease", "had begun epoch"),
        ("epoch", "made, too"),
        ("mark", "made, too"),
        ("logical-clock", "made, too"),
        ("drift-check", "ahead of the clock"),
        ("overflow-wait", "made, too"),
        ("bucket-bits", "was to be aligned"),
    ],
)
def test_a_missing_safeguard_is_found(without: str, said: str) -> None:
    for seed in range(1000):
        told = tell(story, seed, without=without)
        if told.violations:
            assert any(said in violation for violation in told.violations), told.violations
            return
    pytest.fail(f"1,000 seeds without {without} found nothing: the story is blind")


def test_every_safeguard_has_its_test() -> None:
    (tested,) = (mark.args[1] for mark in test_a_missing_safeguard_is_found.pytestmark)  # type: ignore[attr-defined]
    assert {without for without, _ in tested} == set(story.safeguards)


def test_a_seed_is_told_again_line_by_line() -> None:
    one, other = (tell(story, 7, traced=True, logs=True) for _ in range(2))
    assert one.trace == other.trace


def test_the_story_tells_of_what_matters() -> None:
    """Holders follow each other, callers are refused for every reason there is, and ids are made by the million."""
    seen: Counter[str] = Counter()

    async def watched(world: World, without: str) -> Sequence[str]:
        found = await story.tell(world, without)
        for call in world.history.calls:
            if call.outcome is Outcome.OK:
                assert isinstance(call.value, int)
                seen["ids"] += call.value
                seen[f"epoch {call.result}"] += 1
            else:
                seen[str(call.result)] += 1
        seen.update(fault.what.split(" ")[0] for fault in world.faults.happened)
        return found

    for seed in range(20):
        assert not tell(msgspec.structs.replace(story, tell=watched), seed).violations
    assert seen["ids"] > 10_000_000
    for what in ("epoch 5", "no_lease", "clock_moved_back", "ids_ahead", "mark_reached", "killed", "wall", "slow"):
        assert seen[what], (what, seen)
