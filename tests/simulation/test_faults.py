"""Faults are decisions with names: leaving one out changes no other."""

from __future__ import annotations

import random

from dougong.simulation import Chaos, World
from dougong.simulation.faults import Fault, Faults

KINDS = ((0.2, "lost"), (0.1, "late"))


def strikes(only: set[str] | None, *, healed_after: int = 1000) -> tuple[list[tuple[str, float] | None], list[Fault]]:
    faults = Faults(lambda name: random.Random(f"1/{name}"), lambda: 0.0, lambda where, what: None, only)
    source = faults.source("link a>b", "a>b")
    seen: list[tuple[str, float] | None] = []
    for number in range(200):
        faults.healed = number >= healed_after
        seen.append(source.strike(KINDS))
    return seen, faults.happened


def test_kinds_strike_as_often_as_they_should() -> None:
    seen, happened = strikes(None)
    kinds = [strike[0] for strike in seen if strike is not None]
    assert 25 < kinds.count("lost") < 55
    assert 8 < kinds.count("late") < 32
    assert len(happened) == len(kinds)
    assert len({fault.key for fault in happened}) == len(happened)


def test_a_fault_left_out_changes_no_other() -> None:
    whole, happened = strikes(None)
    keys = [fault.key for fault in happened]
    for left_out in (keys[0], keys[7], keys[-1]):
        part, left = strikes(set(keys) - {left_out})
        assert [fault.key for fault in left] == [key for key in keys if key != left_out]
        assert sum(one != other for one, other in zip(whole, part, strict=True)) == 1


def test_nothing_strikes_in_a_healed_world() -> None:
    seen, _ = strikes(None, healed_after=100)
    assert any(seen[:100])
    assert not any(seen[100:])


def test_a_calm_world_has_no_faults_and_a_varied_one_leaves_some_out() -> None:
    assert {getattr(Chaos(), name) for name in ("crash_every_s", "request_lost", "disk_full", "clock_skew_s")} == {0.0}
    rough = Chaos(crash_every_s=5.0, request_lost=0.1, disk_full=0.1, delay_s=0.05)
    varied = [rough.varied(random.Random(seed)) for seed in range(200)]
    assert {chaos.request_lost == 0.0 for chaos in varied} == {True, False}
    assert {chaos.crash_every_s for chaos in varied} == {0.0, 2.5, 5.0, 10.0}
    assert {chaos.delay_s for chaos in varied} == {0.05}
    assert World(1, chaos=rough, vary=True).chaos == World(1, chaos=rough, vary=True).chaos


def test_streams_of_one_seed_are_apart() -> None:
    first, second = World(1), World(1)
    second.stream("something else").random()
    assert first.random.random() == second.random.random() != World(2).random.random()
