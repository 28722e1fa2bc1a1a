"""Jobs in a log, in simulated worlds; each of what keeps a job from running twice, taken away, is missed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
from tests.conftest import IN_CI
from tests.stories import assert_all_tested, assert_found_without, assert_nothing_found, assert_told_again

from dougong.simulation.stories.joblog import story


def test_fresh_seeds_find_nothing(record_property: Callable[[str, object], None]) -> None:
    assert_nothing_found(story, 20 if IN_CI else 4, record_property)


@pytest.mark.parametrize(
    ("without", "said"),
    [
        ("map", "ran [0-9]+ times"),
        ("rows", "ran [0-9]+ times"),
        ("kept", "ran [0-9]+ times"),
        ("mine", "ran [0-9]+ times"),
    ],
)
def test_a_missing_safeguard_is_found(without: str, said: str) -> None:
    assert_found_without(story, without, said, seeds=100)


def test_every_safeguard_has_its_test() -> None:
    assert_all_tested(story, test_a_missing_safeguard_is_found)


def test_a_seed_is_told_again_line_by_line() -> None:
    assert_told_again(story)


def test_it_is_told_without_the_client_library() -> None:
    """It is among the stories of who has no Kafka; one that cannot be loaded would take all from them."""
    code = "import sys; sys.modules['confluent_kafka'] = None; from dougong.simulation.stories.joblog import story"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
