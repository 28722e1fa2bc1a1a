"""The claim about ids can fail: the naive minter repeats ids under each mishap, and ours does not."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from shop.proof.ids.claim import NaiveMakers, OurMakers, ids
from shop.proof.ids.mishaps import MISHAPS, duplicates


@pytest.mark.parametrize("name", MISHAPS)
async def test_a_mishap_tells_the_two_apart(name: str, tmp_path: Path) -> None:
    assert duplicates(await MISHAPS[name](NaiveMakers())) > 0
    async with AsyncExitStack() as stack:
        made = await MISHAPS[name](OurMakers(f"sqlite:///{tmp_path}/ids.db", stack))
    assert len(made) >= 2000
    assert duplicates(made) == 0


def test_the_claim_asks_for_what_was_promised() -> None:
    wanted = {threshold.figure: str(threshold) for threshold in ids.thresholds}
    assert wanted["ours.ids_per_s"] == "≥ 2,000,000"
    assert wanted["ours.checked_ids"] == "≥ 100,000,000"
    for name in MISHAPS:
        assert wanted[f"ours.{name}_duplicates"] == "≤ 0"
        assert wanted[f"baseline.{name}_duplicates"] == "≥ 1"
