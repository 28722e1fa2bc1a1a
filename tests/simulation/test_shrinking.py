"""Shrinking: the fewest faults, and each result really fails."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.simulation.counter import counter, pair

from dougong.errors import Invalid
from dougong.simulation import fewest, shrink, tell


@given(st.sets(st.integers(0, 59), min_size=1, max_size=4))
def test_the_culprits_are_found_among_many(culprits: set[int]) -> None:
    items = [str(number) for number in range(60)]
    wanted = {str(number) for number in culprits}

    def fails(part: Sequence[str]) -> bool:
        return wanted <= set(part)

    assert set(fewest(items, fails)) == wanted


def test_what_fails_without_any_fault_needs_none() -> None:
    assert fewest(["a", "b"], lambda _: True) == []


def test_tests_are_bounded_and_what_is_left_still_fails() -> None:
    tests: list[int] = []
    items = [str(number) for number in range(1000)]
    left = fewest(
        items, lambda part: {"3", "500", "997"} <= set(part), tests_max=10, progress=lambda n, _: tests.append(n)
    )
    assert {"3", "500", "997"} <= set(left)
    assert tests == list(range(1, 11))


def test_a_story_is_told_again_with_the_fewest_faults() -> None:
    failed = next(told for seed in range(50) if (told := tell(pair, seed)).violations)
    assert len(failed.faults) > 5
    least = shrink(pair, failed)
    assert sorted(fault.where for fault in least.faults) == ["a", "b"]
    assert least.violations == ["both were killed"]
    assert {fault.key for fault in least.faults} <= {fault.key for fault in failed.faults}
    assert "FAULT killed within" in least.trace
    assert str(least.faults[0]).split("s ", 1)[1].strip().startswith(least.faults[0].where)


def test_a_race_needs_no_fault_at_all() -> None:
    failed = next(told for seed in range(200) if (told := tell(counter, seed, without="care")).violations)
    least = shrink(counter, failed, without="care")
    assert least.violations
    assert len(least.faults) <= 1


def test_an_unknown_safeguard_is_refused_by_name() -> None:
    with pytest.raises(Invalid, match="has no safeguard 'luck'; it has: care"):
        tell(counter, 1, without="luck")
