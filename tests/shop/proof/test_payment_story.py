"""Payments from elsewhere in simulated worlds: fresh seeds each time, and the same stories with a safeguard missing.

What happens in them, and what must be true of it, is told in `shop.proof.payment`. A seed that fails here is told again
by `dougong simulate payment --seed`.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from tests.conftest import IN_CI

from dougong.simulation import first_difference, tell
from shop.proof.payment import story

CHUNKS = 6
SEEDS = 5 if IN_CI else 1
"""Of each chunk: chunks are shared out among the tests' processes."""


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_goods_and_money_are_where_the_winner_says(chunk: int, record_property: Callable[[str, object], None]) -> None:
    first = random.SystemRandom().randrange(2**32)
    record_property("seeds", f"payment {first} to {first + SEEDS - 1}")
    for seed in range(first, first + SEEDS):
        told = tell(story, seed)
        assert not told.violations, f"dougong simulate payment --seed {seed}: {told.violations}"


def test_a_seed_is_told_again_line_by_line() -> None:
    seed = random.SystemRandom().randrange(2**32)
    one, other = (tell(story, seed, traced=True, logs=True).trace for _ in range(2))
    assert not first_difference(one, other), f"dougong simulate payment --seed {seed}"


@pytest.mark.parametrize("safeguard", sorted(story.safeguards))
def test_a_missing_safeguard_is_found(safeguard: str) -> None:
    """Most are missed by the first seeds already; the bound is what was promised."""
    for seed in range(1000):
        told = tell(story, seed, without=safeguard)
        if told.violations:
            assert any(SYMPTOMS[safeguard] in violation for violation in told.violations), told.violations
            return
    pytest.fail(f"1,000 stories without {safeguard}, and nobody noticed")


SYMPTOMS = {
    "compare-and-set": "after version",
    "hold": "has several outcomes",
    "late-refund": "and the provider has",
    "one-unit": "is refunding, and its payment",
    "refund-key": "is left refunding",
    "retry": "is left",
}
