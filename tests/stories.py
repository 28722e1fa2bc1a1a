"""What every story of `dougong.simulation` is asked: fresh seeds, each safeguard taken away, the same seed twice."""

from __future__ import annotations

import re
import secrets
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec
import pytest

from dougong.simulation import Story, World, tell

__all__ = ["assert_all_tested", "assert_found_without", "assert_nothing_found", "assert_told_again", "assert_well_told"]


def assert_nothing_found(story: Story, seeds: int, record_property: Callable[[str, object], None]) -> None:
    """In worlds that nobody saw before; a seed that fails is named and can be told again."""
    first = secrets.randbelow(2**32)
    record_property("seeds", f"{story.name} {first} to {first + seeds - 1}")
    for seed in range(first, first + seeds):
        told = tell(story, seed)
        assert not told.violations, f"dougong simulate {story.name} --seed {seed}: {told.violations}"


def assert_found_without(story: Story, safeguard: str, said: str, *, seeds: int, likely: int = 0) -> None:
    """One of the first seeds ends in what the safeguard prevents: `said`, a regular expression.

    `likely` is told first: where it is found late, the seed that found it last time.
    """
    seen: Counter[str] = Counter()
    for seed in (likely, *range(seeds)):
        violations = tell(story, seed, without=safeguard).violations
        if any(re.search(said, violation) for violation in violations):
            return
        seen.update(violations)
    pytest.fail(f"{seeds} seeds without {safeguard} never said {said!r}: the story is blind; it said {seen}")


def assert_all_tested(story: Story, test: Callable[..., object]) -> None:
    """`test` is parametrized with pairs of a safeguard and what is said without it."""
    (tested,) = (mark.args[1] for mark in test.pytestmark)  # type: ignore[attr-defined]
    assert {without for without, _ in tested} == set(story.safeguards)


def assert_told_again(story: Story) -> None:
    """Line by line."""
    one, other = (tell(story, 7, traced=True, logs=True) for _ in range(2))
    assert one.trace == other.trace


def assert_well_told(story: Story, seeds: int, look: Callable[[World], None]) -> None:
    """Nothing is found in the first seeds, and `look` may see at the end of each what happened there."""

    async def watched(world: World, without: str) -> Sequence[str]:
        found = await story.tell(world, without)
        look(world)
        return found

    for seed in range(seeds):
        assert not tell(msgspec.structs.replace(story, tell=watched), seed).violations
