"""What people do with schedules, on every engine."""

from __future__ import annotations

import pytest
from tests.jobs.schedules.test_scheduler import MINUTELY, _drop_key, _none
from tests.jobs.schedules.world import BEGIN_US, HOUR, SECOND, World, call, drive, replaced

from dougong.errors import Conflict, Invalid, NotFound
from dougong.jobs.schedules import Cron, Every, FireCause, FireDecision, Misfire, Overlap, Schedule, ScheduleStatus
from dougong.jobs.schedules.firing import Firing


async def test_show_says_when_next_and_why(world: World) -> None:
    await world.scheduler(Schedule("nightly", Cron("30 2 6-10 3 *", "America/New_York"), call()))
    shown = await world.operate.show("nightly")
    assert (shown.status, shown.declared, shown.schedule) == (
        ScheduleStatus.ACTIVE,
        True,
        Schedule("nightly", Cron("30 2 6-10 3 *", "America/New_York"), call()),
    )
    assert [one.why.removeprefix("'30 2 6-10 3 *' at ") for one in shown.upcoming] == [
        "Fri 2026-03-06 02:30:00 America/New_York",
        "Sat 2026-03-07 02:30:00 America/New_York",
        "Sun 2026-03-08 03:00:00 America/New_York: in place of 2026-03-08 02:30, which the clock there skips",
        "Mon 2026-03-09 02:30:00 America/New_York",
        "Tue 2026-03-10 02:30:00 America/New_York",
    ]
    with pytest.raises(NotFound, match="no schedule 'daily'"):
        await world.operate.show("daily")


async def test_pause_and_resume(world: World) -> None:
    scheduler = await world.scheduler(MINUTELY)
    await drive(scheduler)
    assert (await world.operate.pause("minutely")).upcoming == ()
    await world.operate.pause("minutely")
    world.clock.advance(150)
    await drive(scheduler)
    assert await world.jobs() == []
    assert (await world.operate.resume("minutely")).next_fire_us == BEGIN_US + 180 * SECOND
    await world.operate.resume("minutely")
    world.clock.advance(30)
    await drive(scheduler)
    assert await world.jobs() == [180]  # what it would have fired meanwhile is for `backfill`


async def test_run_now_goes_beside_the_schedule(world: World) -> None:
    scheduler = await world.scheduler(replaced(MINUTELY, overlap=Overlap.SKIP))
    await world.operate.pause("minutely")
    first, second = await world.operate.run_now("minutely"), await world.operate.run_now("minutely")
    assert (first.cause, first.decision, first.jobs, second.jobs) == (FireCause.RUN_NOW, FireDecision.FIRED, (1,), (2,))
    await world.operate.resume("minutely")
    world.clock.advance(60)
    await drive(scheduler)
    assert await world.decided("minutely") == [("fired", 0, 1), ("fired", 0, 1), ("overlapped", 60, 1)]
    await world.finish(1, 2)
    world.clock.advance(60)
    await drive(scheduler)
    assert await world.jobs() == [0, 0, 120]


async def test_backfill_runs_what_did_not(world: World) -> None:
    scheduler = await world.scheduler(replaced(MINUTELY, misfire=Misfire.SKIP))
    await drive(scheduler)
    for seconds in (60, 60, 600):  # five minutes to twelve were missed
        world.clock.advance(seconds)
        await drive(scheduler)
    assert await world.decided("minutely") == [
        ("fired", 60, 1),
        ("fired", 120, 1),
        ("missed", 600, 8),
        *_fired(660, 720),
    ]
    done = await world.operate.backfill("minutely", BEGIN_US - 2 * HOUR, BEGIN_US + 720 * SECOND)
    assert (done.fired, done.already) == (120 + 1 + 8, 3)
    assert sorted(await world.jobs()) == list(range(-7200, 721, 60))
    again = await world.operate.backfill("minutely", BEGIN_US - 2 * HOUR, BEGIN_US + 720 * SECOND)
    assert (again.fired, again.already) == (0, 132)
    world.clock.advance(60)
    await drive(scheduler)
    assert await world.jobs() == [60, 120, 660, 720, *range(-7200, 60, 60), *range(180, 660, 60), 780]


def _fired(*seconds: int) -> list[tuple[str, int, int]]:
    return [("fired", one, 1) for one in seconds]


async def test_without_the_occurrences_key_a_backfill_repeats(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = await world.scheduler(MINUTELY)
    world.clock.advance(120)
    await drive(scheduler)
    period = ("minutely", BEGIN_US, BEGIN_US + 120 * SECOND)
    monkeypatch.setattr(Firing, "there", _none)
    with pytest.raises(Exception, match=r"."):  # the key refuses, whatever the engine calls it
        await world.operate.backfill(*period)
    assert await world.jobs() == [60, 120]
    await _drop_key(world)
    await world.operate.backfill(*period)
    assert sorted(await world.jobs()) == [0, 60, 60, 120]


async def test_a_period_that_cannot_be_made_up_for_is_refused_before_anything_runs(world: World) -> None:
    await world.scheduler(replaced(MINUTELY, when=Every(1)))
    for from_us, until_us in ((BEGIN_US, BEGIN_US), (BEGIN_US, BEGIN_US + 1), (0, BEGIN_US)):
        with pytest.raises(Invalid) as refused:
            await world.operate.backfill("minutely", from_us, until_us)
        assert refused.value.code == "bad_period"
    assert await world.jobs() == []


async def test_schedules_of_operators(world: World) -> None:
    scheduler = await world.scheduler(MINUTELY)
    await world.operate.add(replaced(MINUTELY, name="own"))
    with pytest.raises(Conflict, match="take another name"):
        await world.operate.add(replaced(MINUTELY, name="own"))
    with pytest.raises(Conflict, match="is declared in code"):
        await world.operate.remove("minutely")
    world.clock.advance(60)
    await drive(scheduler)
    assert sorted(await world.jobs()) == [60, 60]
    await world.operate.remove("own")
    assert [one.name for one in await world.operate.all()] == ["minutely"]
    assert await world.operate.occurrences("own") == []


async def test_occurrences_are_paged_and_forgotten_in_time(world: World) -> None:
    scheduler = await world.scheduler(replaced(MINUTELY, overlap=Overlap.SKIP))
    world.clock.advance(60)
    await drive(scheduler)
    for _ in range(3):
        world.clock.advance(60)
        await drive(scheduler)
    first = await world.operate.occurrences("minutely", limit=3)
    rest = await world.operate.occurrences("minutely", before_us=first[-1].fire_us)
    assert [(one.fire_us - BEGIN_US) // SECOND for one in [*first, *rest]] == [240, 180, 120, 60]
    await world.operate.pause("minutely")
    world.clock.advance(31 * 86_400)
    again = await world.scheduler(replaced(MINUTELY, overlap=Overlap.SKIP))
    await drive(again)
    assert await world.decided("minutely") == [("fired", 60, 1)]  # its job is unfinished, so it is still needed
