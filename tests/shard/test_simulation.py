"""Minters in simulated worlds; each safeguard, taken away, is missed."""

from __future__ import annotations

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

from dougong.simulation import Outcome, World
from dougong.simulation.stories.ids import story

CHUNKS = 6
SEEDS = 50 if IN_CI else 5
"""Of each chunk: chunks are shared out among the tests' processes."""


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_fresh_seeds_find_nothing(chunk: int, record_property: Callable[[str, object], None]) -> None:
    assert_nothing_found(story, SEEDS, record_property)


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
    assert_found_without(story, without, said, seeds=1000)


def test_every_safeguard_has_its_test() -> None:
    assert_all_tested(story, test_a_missing_safeguard_is_found)


def test_a_seed_is_told_again_line_by_line() -> None:
    assert_told_again(story)


def test_the_story_tells_of_what_matters() -> None:
    """Holders follow each other, callers are refused for every reason there is, and ids are made by the million."""
    seen: Counter[str] = Counter()

    def look(world: World) -> None:
        for call in world.history.calls:
            if call.outcome is Outcome.OK:
                assert isinstance(call.value, int)
                seen["ids"] += call.value
                seen[f"epoch {call.result}"] += 1
            else:
                seen[str(call.result)] += 1
        seen.update(fault.what.split(" ")[0] for fault in world.faults.happened)

    assert_well_told(story, 20, look)
    assert seen["ids"] > 10_000_000
    for what in ("epoch 5", "no_lease", "clock_moved_back", "ids_ahead", "mark_reached", "killed", "wall", "slow"):
        assert seen[what], (what, seen)
