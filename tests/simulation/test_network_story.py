"""Clients, servers and a registry in simulated worlds; each safeguard, taken away, is missed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import msgspec
import pytest
from tests.conftest import IN_CI
from tests.stories import (
    assert_all_tested,
    assert_found_without,
    assert_nothing_found,
    assert_told_again,
)

from dougong.simulation import Outcome, World, tell
from dougong.simulation.stories.network import Tale, story

CHUNKS = 12
SEEDS = 40 if IN_CI else 5
"""Of each chunk: chunks are shared out among the tests' processes."""
LIKELY = {"last": 12, "probing": 30, "epoch": 12, "drain": 24, "resume": 41}
"""Seeds that find what few find."""


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_fresh_seeds_find_nothing(chunk: int, record_property: Callable[[str, object], None]) -> None:
    assert_nothing_found(story, SEEDS, record_property)


@pytest.mark.parametrize(
    ("without", "said"),
    [
        ("damping", "with many others, without a proof"),
        ("last", "the last one, without a proof"),
        ("probing", "after it was known to be dead"),
        ("doubt", "after it was known to be dead"),
        ("epoch", "of epoch"),
        ("goodbye", "which said that it leaves"),
        ("drain", "without a fault: connection_lost"),
        ("resume", "after all is well it calls"),
        ("revision", "with many others, without a proof"),
        ("again", "after all is well it calls"),
        ("ejection-limit", "hosts are ejected, at most"),
        ("ejection", "which is ejected"),
        ("retry-budget", "are made again at once"),
        ("begun", "was done 2 times"),
    ],
)
def test_a_missing_safeguard_is_found(without: str, said: str) -> None:
    assert_found_without(story, without, said, seeds=1000, likely=LIKELY.get(without, 0))


def test_every_safeguard_has_its_test() -> None:
    assert_all_tested(story, test_a_missing_safeguard_is_found)


def test_a_seed_is_told_again_line_by_line() -> None:
    assert_told_again(story)


def test_the_story_tells_of_what_matters() -> None:
    """All that can befall instances, registry and calls does befall them."""
    seen: Counter[str] = Counter()

    async def watched(world: World, without: str) -> Sequence[str]:
        tale = Tale(world, without)
        found = await tale.tell()
        seen.update(tale.judge.seen)
        seen["calm"] += not world.faults.happened
        for call in world.history.calls:
            seen[call.outcome.value] += 1
        for fault in world.faults.happened:
            seen[fault.what.split()[0]] += 1
        return found

    for seed in range(40):
        assert not tell(msgspec.structs.replace(story, tell=watched), seed).violations
    enough = {
        "calm": 3, "left": 50, "ejected": 8, "unejected": 4, "retries": 60, "restored": 3, "crash noticed": 30,
        "probe alive": 100, "probe dead": 100, "lost alone": 20, "lost with many": 10,
        "killed": 50, "503": 10, "hangs": 10, "replaced": 5, "empty": 2, "listed": 10, "partition": 10,
        Outcome.OK.value: 4000, Outcome.UNKNOWN.value: 100,
    }  # fmt: skip
    missing = {what: seen[what] for what, least in enough.items() if seen[what] < least}
    assert not missing, seen
