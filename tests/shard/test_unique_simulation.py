"""Unique addresses in simulated worlds; each safeguard, taken away, is missed."""

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

from dougong.simulation import World
from dougong.simulation.stories.unique import story

CHUNKS = 4
SEEDS = 30 if IN_CI else 5
"""Of each chunk: chunks are shared out among the tests' processes."""


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_fresh_seeds_find_nothing(chunk: int, record_property: Callable[[str, object], None]) -> None:
    assert_nothing_found(story, SEEDS, record_property)


@pytest.mark.parametrize(
    ("without", "said"),
    [
        ("claim", r"belongs to \["),
        ("check", r"belongs to \["),
        ("revoke", r"belongs to \["),
        ("sweep-revoke", r"belongs to \[|nobody was found"),
        ("one-unit", r"belongs to \[|nobody was found"),
        ("repoint-token", r"belongs to \["),
        ("drop-token", r"belongs to \["),
        ("confirm", "cannot have had it"),
    ],
)
def test_a_missing_safeguard_is_found(without: str, said: str) -> None:
    assert_found_without(story, without, said, seeds=300)


def test_every_safeguard_has_its_test() -> None:
    assert_all_tested(story, test_a_missing_safeguard_is_found)


def test_a_seed_is_told_again_line_by_line() -> None:
    assert_told_again(story)


def test_the_story_tells_of_what_matters() -> None:
    """Addresses are given, refused, found and not found; calls end in every way; processes and disks fail."""
    seen: Counter[str] = Counter()

    def look(world: World) -> None:
        for call in world.history.calls:
            seen[f"{call.what} {call.outcome.value}"] += 1
            seen[str(call.result)] += call.result is not None
            seen["found"] += call.what == "find" and call.result in range(10)
        seen.update(fault.what.split(" ")[0] for fault in world.faults.happened)

    assert_well_told(story, 20, look)
    for what in ("set ok", "set unknown", "delete ok", "find ok", "found", "unique_violated", "claim_expired"):
        assert seen[what], (what, seen)
    for what in ("killed", "slow", "disk_full", "locked"):
        assert seen[what], (what, seen)
