"""Misfires and overlaps as pure functions: whenever one looks, no fire is lost and none is repeated."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.jobs import NewJob
from dougong.jobs.schedules import At, Cron, Every, Misfire, Overlap, Schedule
from dougong.jobs.schedules.declare import decode, encode
from dougong.jobs.schedules.declaring import Sync, added, sync
from dougong.jobs.schedules.misfire import due
from dougong.jobs.schedules.overlap import overlap

SECOND = 1_000_000


@given(
    st.sampled_from(Misfire),
    st.integers(1, 500),
    st.lists(st.integers(0, 5000), min_size=1, max_size=30),
    st.integers(1, 40),
    st.integers(0, 3000),
    st.integers(0, 600),
)
def test_every_fire_is_decided_about_once_in_order(
    policy: Misfire, every_s: int, waits_s: list[int], limit: int, window_s: int, late_s: int
) -> None:
    every = Every(every_s)
    next_us = every.after_us(0)
    now_us = 0
    decided: list[tuple[int, bool, int]] = []
    for wait_s in waits_s:
        now_us += wait_s * SECOND
        while next_us is not None and next_us <= now_us:
            one = due(
                next_us,
                now_us,
                every.after_us,
                policy,
                late_us=late_s * SECOND,
                window_us=window_s * SECOND,
                limit=limit,
            )
            assert 0 < len(one.run) + len(one.missed) <= limit
            decided += sorted(
                [(fire, True, now_us) for fire in one.run] + [(fire, False, now_us) for fire in one.missed]
            )
            next_us = one.next_us
    assert [fire for fire, _, _ in decided] == list(range(every_s * SECOND, now_us + 1, every_s * SECOND))
    for fire, ran, at_us in decided:
        late = at_us - fire > late_s * SECOND
        if not late or policy is Misfire.ALL:
            assert ran
        elif policy is Misfire.SKIP:
            assert not ran
        elif policy is Misfire.CATCH_UP:
            assert ran is (at_us - fire <= window_s * SECOND)
    if policy is Misfire.ONCE:
        for at_us in {at_us for _, _, at_us in decided}:
            seen = [(fire, ran) for fire, ran, when in decided if when == at_us]
            assert seen[-1][1]  # the latest of what was found at once always runs
            late_ones = [ran for fire, ran in seen if at_us - fire > late_s * SECOND]
            assert sum(late_ones) <= 1


@given(st.sampled_from(Overlap), st.lists(st.integers(), max_size=20, unique=True).map(sorted), st.booleans())
def test_overlap_decides_about_every_fire_and_leaves_one_unfinished_where_it_should(
    policy: Overlap, fires: list[int], busy: bool
) -> None:
    fates = overlap(policy, fires, busy)
    assert sorted([*fates.put, *fates.passed]) == fires
    assert fates.cancel is (policy is Overlap.REPLACE and busy and bool(fires))
    if policy.asks and fires:
        assert len(fates.put) == (0 if busy and policy is Overlap.SKIP else 1)
    else:
        assert not fates.passed


def test_what_a_fire_enqueues() -> None:
    call = NewJob(job="sweep", payload=b"{}", trace="00-old", priority=2)
    schedule = Schedule("nightly", Every(60), call, jitter_s=30, shards=3)
    jobs = schedule.jobs(60 * SECOND, "00-new", in_order=True)
    assert [(job.index, job.total, job.trace, job.schedule, job.priority) for job in jobs] == [
        (0, 3, "00-new", "nightly", 2),
        (1, 3, "00-new", "nightly", 2),
        (2, 3, "00-new", "nightly", 2),
    ]
    dues = {schedule.jobs(n * SECOND, "", in_order=True)[0].due_us or 0 for n in range(0, 6000, 60)}
    offsets = {due_us % (60 * SECOND) for due_us in dues}
    assert len(offsets) > 50  # spread
    assert max(offsets) < 30 * SECOND
    assert decode(encode(schedule)) == Schedule(
        "nightly", Every(60), NewJob(job="sweep", payload=b"{}", priority=2), jitter_s=30, shards=3
    )


@pytest.mark.parametrize(
    ("start", "end", "fires"), [(None, 180, [60, 120]), (61, None, [120, 180, 240]), (120, 121, [120])]
)
def test_bounds(start: int | None, end: int | None, fires: list[int]) -> None:
    schedule = Schedule(
        "bounded",
        Every(60),
        NewJob(job="sweep", payload=b"{}"),
        start_us=start and start * SECOND,
        end_us=end and end * SECOND,
    )
    found: list[int] = []
    at_us = schedule.after_us(0)
    while at_us is not None and len(found) < 3:
        found.append(at_us // SECOND)
        at_us = schedule.after_us(at_us)
    assert found == fires


def test_a_single_time_has_no_next() -> None:
    assert [At(5).after_us(at) for at in (4, 5)] == [5, None]


def test_a_zone_that_changed_its_rules_is_planned_anew_at_the_next_start() -> None:
    schedule = Schedule("nightly", Cron("0 2 * * *", "Europe/Berlin"), NewJob(job="sweep", payload=b"{}"))
    row = added(schedule, 0, declared=True)
    assert row.next_fire_us == 3600 * SECOND
    assert sync([row], {"nightly": schedule}, 10 * SECOND) == Sync()
    by_other_rules = msgspec.structs.replace(row, next_fire_us=7200 * SECOND)
    assert sync([by_other_rules], {"nightly": schedule}, 10 * SECOND) == Sync(changed=[row])
    overdue = msgspec.structs.replace(row, next_fire_us=5 * SECOND)
    assert sync([overdue], {"nightly": schedule}, 10 * SECOND) == Sync()  # that one is still to be dealt with
