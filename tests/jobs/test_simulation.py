"""Jobs and schedules in simulated worlds; each safeguard, taken away, is missed."""

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
from dougong.simulation.stories.jobs import story

CHUNKS = 6
SEEDS = 5 if IN_CI else 1
"""Of each chunk: chunks are shared out among the tests' processes."""
LIKELY = {"attempt": 15, "plan": 15}
"""Seeds that find what few find."""


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_fresh_seeds_find_nothing(chunk: int, record_property: Callable[[str, object], None]) -> None:
    assert_nothing_found(story, SEEDS, record_property)


@pytest.mark.parametrize(
    ("without", "said"),
    [
        ("term", "is over, and wrote a turn"),
        ("holder", "is there 2 times|is said to have|before these of its group"),
        ("attempt", "at once|and ran|attempts"),
        ("reaping", "is left in state 3"),
        ("queue-time", "and ran"),
        ("recount", "is left in state 3"),
        ("effects", "effects"),
        ("marks", "is there 2 times|of the unique mark"),
        ("scheduler-term", "was the last that was given"),
        ("plan", "though it is paused"),
        ("occurrence", "fired 2 times"),
    ],
)
def test_a_missing_safeguard_is_found(without: str, said: str) -> None:
    assert_found_without(story, without, said, seeds=200, likely=LIKELY.get(without, 0))


def test_every_safeguard_has_its_test() -> None:
    assert_all_tested(story, test_a_missing_safeguard_is_found)


def test_a_seed_is_told_again_line_by_line() -> None:
    assert_told_again(story)


def test_the_story_tells_of_what_matters() -> None:
    """Jobs end in every way, chains and groups come to their ends, fires run and do not, and all faults strike."""
    seen: Counter[str] = Counter()

    def look(world: World) -> None:
        database = world.database("jobs")
        for state, count in database.rows("SELECT state, count(*) FROM dougong_jobs GROUP BY state"):
            seen[f"state {state!s}"] += int(str(count))
        for misfire, count in database.rows("SELECT decision, count(*) FROM story_occurred GROUP BY decision"):
            seen[str(misfire)] += int(str(count))
        for cause, count in database.rows("SELECT cause, count(*) FROM story_occurred GROUP BY cause"):
            seen[str(cause)] += int(str(count))
        for what, sql in {
            "stalled": "SELECT 1 FROM dougong_jobs WHERE stalls > 0",
            "chained": "SELECT 1 FROM dougong_jobs WHERE CAST(payload AS TEXT) LIKE '%:\"c%/3\"%'",
            "gathered": "SELECT 1 FROM dougong_jobs WHERE state = 4 AND CAST(payload AS TEXT) LIKE '%:\"g%/then%'",
            "terms": "SELECT 1 FROM dougong_job_workers",
        }.items():
            seen[what] += len(database.rows(sql))
        for fault in world.faults.happened:
            seen[fault.what.split()[0]] += 1

    assert_well_told(story, 12, look)
    enough = {
        "state 4": 500, "state 5": 50, "state 6": 20, "stalled": 20, "chained": 1, "gathered": 1, "terms": 60,
        "fired": 200, "missed": 1, "overlapped": 5, "run_now": 5, "backfill": 5,
        "killed": 20, "stands": 10, "wall": 5, "answer": 10, "slow": 5, "disk_full": 5, "disk": 2,
    }  # fmt: skip
    missing = {what: seen[what] for what, least in enough.items() if seen[what] < least}
    assert not missing, seen
