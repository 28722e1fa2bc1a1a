"""Unique addresses in simulated worlds; each safeguard, taken away, is missed."""

from __future__ import annotations

import re
import secrets
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec
import pytest
from tests.conftest import IN_CI

from dougong.simulation import World, tell
from dougong.simulation.stories.unique import story

CHUNKS = 4
SEEDS = 30 if IN_CI else 5
"""Of each chunk: chunks are shared out among the tests' processes."""


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_fresh_seeds_find_nothing(chunk: int, record_property: Callable[[str, object], None]) -> None:
    first = secrets.randbelow(2**32)
    record_property("seeds", f"unique {first} to {first + SEEDS - 1}")
    for seed in range(first, first + SEEDS):
        told = tell(story, seed)
        assert not told.violations, f"dougong simulate unique --seed {seed}: {told.violations}"


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
    for seed in range(300):
        told = tell(story, seed, without=without)
        if told.violations:
            assert any(re.search(said, violation) for violation in told.violations), told.violations
            return
    pytest.fail(f"300 seeds without {without} found nothing: the story is blind")


def test_every_safeguard_has_its_test() -> None:
    (tested,) = (mark.args[1] for mark in test_a_missing_safeguard_is_found.pytestmark)  # type: ignore[attr-defined]
    assert {without for without, _ in tested} == set(story.safeguards)


def test_a_seed_is_told_again_line_by_line() -> None:
    one, other = (tell(story, 7, traced=True, logs=True) for _ in range(2))
    assert one.trace == other.trace


def test_the_story_tells_of_what_matters() -> None:
    """Addresses are given, refused, found and not found; calls end in every way; processes and disks fail."""
    seen: Counter[str] = Counter()

    async def watched(world: World, without: str) -> Sequence[str]:
        found = await story.tell(world, without)
        for call in world.history.calls:
            seen[f"{call.what} {call.outcome.value}"] += 1
            seen[str(call.result)] += call.result is not None
            seen["found"] += call.what == "find" and call.result in range(10)
        seen.update(fault.what.split(" ")[0] for fault in world.faults.happened)
        return found

    for seed in range(20):
        assert not tell(msgspec.structs.replace(story, tell=watched), seed).violations
    for what in ("set ok", "set unknown", "delete ok", "find ok", "found", "unique_violated", "claim_expired"):
        assert seen[what], (what, seen)
    for what in ("killed", "slow", "disk_full", "locked"):
        assert seen[what], (what, seen)
