"""The whole room in simulated worlds; each safeguard, taken away, is missed."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec
import pytest
from tests.conftest import IN_CI

from dougong.simulation import Story, World, tell
from dougong.simulation.stories.statemachine import story

CHUNKS = 12
SEEDS = 25 if IN_CI else 2
"""Of each chunk: chunks are shared out among the tests' processes."""


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_fresh_seeds_find_nothing(chunk: int, record_property: Callable[[str, object], None]) -> None:
    first = secrets.randbelow(2**32)
    record_property("seeds", f"statemachine {first} to {first + SEEDS - 1}")
    for seed in range(first, first + SEEDS):
        told = tell(story, seed)
        assert not told.violations, f"dougong simulate statemachine --seed {seed}: {told.violations}"


@pytest.mark.parametrize(
    ("without", "said"),
    [
        ("compare-and-set", ("seats: ", "after version", "for ever", "its history ends")),
        ("event-id", ("has several outcomes",)),
        ("deadline-row", ("for ever: no deadline ended it",)),
    ],
)
def test_a_missing_safeguard_is_found(without: str, said: tuple[str, ...]) -> None:
    for seed in range(1000):
        told = tell(story, seed, without=without)
        if told.violations:
            assert any(words in violation for words in said for violation in told.violations)
            return
    pytest.fail(f"1,000 seeds without {without} found nothing: the story is blind")


def test_every_safeguard_has_its_test() -> None:
    assert set(story.safeguards) == {"compare-and-set", "event-id", "deadline-row"}


def test_a_seed_is_told_again_line_by_line() -> None:
    one, other = (tell(story, 7, traced=True, logs=True) for _ in range(2))
    assert one.trace == other.trace


def test_the_story_tells_of_what_matters() -> None:
    """Payments win and lose against timeouts, events come twice, definitions change: all that it is to prove."""
    seen: Counter[str] = Counter()

    async def watched(world: World, without: str) -> Sequence[str]:
        found = await story.tell(world, without)
        rows = world.database("bookings").rows("SELECT source, event FROM dougong_transitions")
        seen.update(f"{source!s} {event!s}" for source, event in rows)
        for call in world.history.calls:
            if isinstance(call.result, str):
                seen[call.result] += 1
        seen.update(fault.what.split()[0] for fault in world.faults.happened)
        return found

    watching: Story = msgspec.structs.replace(story, tell=watched)
    for seed in range(30):
        assert not tell(watching, seed).violations
    for what in (
        "held pay",
        "held expire",
        "paid close",
        "paid check",
        "checked recheck",
        "verified recheck",
        "checked ~migrate",
        "verified close",
        "illegal_transition",
        "sent",
        "late",
        "answer",
        "killed",
        "disk_full",
    ):
        assert any(name.startswith(what) for name in seen), (what, seen)
