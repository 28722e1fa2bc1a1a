"""The scheduler on every engine: no fire twice, none lost, whoever dies, sleeps or moves the clock."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import cast

import pytest
from structlog.testing import capture_logs
from tests.jobs.schedules.world import BEGIN_US, HOUR, SECOND, World, call, drive, replaced

from dougong.errors import Error, Invalid
from dougong.jobs.database_time import DatabaseTime
from dougong.jobs.schedules import (
    At,
    Cron,
    Every,
    Misfire,
    Overlap,
    Schedule,
    Scheduler,
    SchedulerSettings,
    ScheduleStatus,
)
from dougong.jobs.schedules.firing import Firing, Plan
from dougong.jobs.schedules.leases import Leases
from dougong.store import Migration, Store, Tx, Unit
from dougong.telemetry import render_prometheus

MINUTELY = Schedule("minutely", Every(60), call(), overlap=Overlap.PARALLEL)


async def test_fires_are_rows_written_with_their_jobs(world: World) -> None:
    scheduler = await world.scheduler(MINUTELY, Schedule("daily", Cron("@daily"), call("report"), shards=3))
    await drive(scheduler)
    assert await world.jobs() == []
    world.clock.advance(60)
    await drive(scheduler)
    assert await world.jobs() == [60]
    world.clock.advance(86_400 - 60 - 30)  # 1439 fires later, in units of 500: an hour's worth is caught up with
    await drive(scheduler)
    assert await world.jobs() == [60, *range(86_400 - 3600, 86_400, 60)]
    world.clock.advance(30)
    await drive(scheduler)
    assert await world.jobs("daily") == [86_400] * 3
    shown = {one.name: one for one in await world.operate.all()}
    assert [(shown[n].status, shown[n].next_fire_us) for n in ("daily", "minutely")] == [
        (ScheduleStatus.ACTIVE, BEGIN_US + 2 * 86_400 * SECOND),
        (ScheduleStatus.ACTIVE, BEGIN_US + (86_400 + 60) * SECOND),
    ]
    rows = await world.store.fetch_all("SELECT part, trace FROM fake_jobs WHERE schedule = 'daily' ORDER BY id")
    assert [part for part, _ in rows] == [0, 1, 2]
    assert len({trace for _, trace in rows}) == 1
    assert str(rows[0][1]).startswith("00-")


async def test_several_schedulers_fire_each_time_once(
    world: World, record_property: Callable[[str, object], None]
) -> None:
    seed = random.randrange(1 << 30)
    record_property("seeds", seed)
    chance = random.Random(seed)
    schedules = [replaced(MINUTELY, name=f"s{n}", when=Every(60, offset_s=n), misfire=Misfire.ALL) for n in range(5)]
    living = [await world.scheduler(*schedules) for _ in range(3)]
    for _ in range(25):
        world.clock.advance(chance.choice([1, 7, 20, 61, 300]))
        if chance.random() < 0.3:  # one dies without a word
            living[chance.randrange(3)] = await world.scheduler(*schedules)
        await asyncio.gather(*(twice(one) for one in living))
    world.clock.advance(20)
    for one in living:
        await drive(one)
    elapsed = (world.clock.now_us() - BEGIN_US) // SECOND
    for n in range(5):
        assert await world.jobs(f"s{n}") == list(range(60 if n == 0 else n, elapsed + 1, 60)), f"seed {seed}"


async def twice(scheduler: Scheduler) -> None:
    await scheduler.turn()
    await scheduler.turn()


class Paused:
    """A store over whose `write` a process can be stopped, as by SIGSTOP, and woken."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.awake = asyncio.Event()
        self.awake.set()
        self.stopped = asyncio.Event()

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    async def write(self, unit: Unit[object]) -> object:
        if not self.awake.is_set():
            self.stopped.set()
            await self.awake.wait()
        return await self._store.write(unit)


async def sleeper(world: World) -> tuple[Scheduler, Scheduler, Callable[[], Awaitable[float]]]:
    """A leader that was stopped with a plan in its hands, one that took over, and how to wake the first."""
    paused = Paused(world.store)
    first = await world.scheduler(MINUTELY, store=cast(Store, paused), name="first")
    second = await world.scheduler(MINUTELY, name="second")
    await drive(first)
    world.clock.advance(60)
    paused.awake.clear()
    asleep = asyncio.ensure_future(first.turn())
    await paused.stopped.wait()
    world.clock.advance(30)

    async def wake() -> float:
        paused.awake.set()
        return await asleep

    return first, second, wake


async def test_a_leader_that_wakes_after_another_took_over_writes_nothing(world: World) -> None:
    first, second, wake = await sleeper(world)
    assert await second.turn() == 0  # it leads, and fires
    assert second.leads
    assert await world.operate.holder() == "second"
    assert await world.jobs() == [60]
    before = await world.store.fetch_all("SELECT * FROM dougong_job_schedules")
    await wake()
    assert not first.leads
    assert await world.jobs() == [60]
    assert await world.store.fetch_all("SELECT * FROM dougong_job_schedules") == before
    await drive(first)
    assert not first.leads


async def _always(*_: object) -> bool:
    return True


async def _all(_: Firing, tx: Tx, plans: list[Plan]) -> list[Plan]:
    return plans


async def _none(*_: object) -> frozenset[int]:
    return frozenset()


@pytest.mark.parametrize(
    ("without", "jobs"),
    [
        ((), [60]),
        # nobody asks for the term: who lost the lease fires, though the other only has not come to it yet
        (("term",), [60]),
        (("term", "recheck"), [60]),
        (("term", "recheck", "look-up"), [60]),  # the primary key alone
        (("term", "recheck", "look-up", "key"), [60, 60]),
        (("recheck", "look-up", "key"), [60]),  # the term alone
    ],
)
async def test_each_safeguard_holds_alone_and_without_them_it_fires_twice(
    world: World, monkeypatch: pytest.MonkeyPatch, without: tuple[str, ...], jobs: list[int]
) -> None:
    first, second, wake = await sleeper(world)
    await drive(second)
    if "term" in without:
        monkeypatch.setattr(Leases, "hold", _always)
    if "recheck" in without:
        monkeypatch.setattr(Firing, "holding", _all)
    if "look-up" in without:
        monkeypatch.setattr(Firing, "there", _none)
    if "key" in without:
        await _drop_key(world)
    await wake()
    assert await world.jobs() == jobs
    assert first.leads is ("term" in without)


async def test_without_the_term_one_who_lost_the_lease_fires(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for allowed in (False, True):
        first, second, wake = await sleeper(world)
        fired = len(await world.jobs())
        monkeypatch.setattr(Firing, "write", _nothing)
        await second.turn()  # it leads, and has not come to it yet
        monkeypatch.undo()
        if allowed:
            monkeypatch.setattr(Leases, "hold", _always)
        await wake()
        assert (len(await world.jobs()) > fired) is allowed
        await drive(second)
        world.clock.advance(30)
        second.stop()
        await second.run()
        if not allowed:
            first.stop()
            await first.run()


async def _nothing(*_: object) -> list[object]:
    return []


async def _drop_key(world: World) -> None:
    sql = (
        "ALTER TABLE dougong_job_occurrences RENAME TO kept; CREATE TABLE dougong_job_occurrences AS SELECT * FROM kept"
    )
    await world.store.migrate("ablation", [Migration(1, "without", sql)])


@pytest.mark.parametrize(
    ("policy", "jobs", "decided"),
    [
        (Misfire.ALL, [*range(600, 10_800, 600), 10_800], []),
        (Misfire.CATCH_UP, [*range(7800, 10_800, 600), 10_800], [("missed", 7200, 12)]),
        (Misfire.ONCE, [10_800], [("missed", 10_200, 17)]),
        (Misfire.SKIP, [10_800], [("missed", 10_200, 17)]),
    ],
)
async def test_a_clock_that_jumps_forward(
    world: World, policy: Misfire, jobs: list[int], decided: list[tuple[str, int, int]]
) -> None:
    scheduler = await world.scheduler(replaced(MINUTELY, when=Every(600), misfire=policy))
    await drive(scheduler)
    world.clock.set_now_us(BEGIN_US + 3 * HOUR + SECOND)
    await drive(scheduler)
    await drive(scheduler)
    assert await world.jobs() == jobs
    assert [one for one in await world.decided("minutely") if one[0] != "fired"] == decided


async def test_a_clock_that_goes_back_repeats_nothing_and_says_so(world: World) -> None:
    often = replaced(MINUTELY, name="often", when=Every(600))
    hourly = Schedule("hourly", Every(3600), call(), misfire=Misfire.SKIP)
    scheduler = await world.scheduler(often, hourly, replaced(often, name="over", end_us=BEGIN_US + 2 * HOUR))
    await drive(scheduler)
    world.clock.set_now_us(BEGIN_US + 3 * HOUR + 120 * SECOND)  # by mistake: midnight, and the clock says 03:02
    await drive(scheduler)
    await drive(scheduler)
    assert await world.jobs("often") == list(range(7800, 10_801, 600))
    assert await world.jobs("hourly") == []  # 01:00 to 03:00 were missed
    world.clock.set_now_us(BEGIN_US + 10 * SECOND)
    with capture_logs() as said:
        await drive(scheduler)
    told = [(one["event"], one["seconds"]) for one in said if one["log_level"] == "error"]
    assert told == [("clock_went_back", 10_910)]
    assert f'clock_back_seconds{{database="{world.store.name}"}} 10910' in render_prometheus()
    for _ in range(19):  # the clock goes its way
        world.clock.advance(600)
        await drive(scheduler)
    assert sorted(await world.jobs("often")) == list(range(600, 11_401, 600))  # all there is, each once
    assert await world.jobs("hourly") == [3600, 7200, 10_800]
    assert await world.jobs("over") == list(range(600, 7200, 600))
    assert f'clock_back_seconds{{database="{world.store.name}"}} 0' in render_prometheus()


async def test_a_lease_of_a_clock_that_went_back_is_no_lease(world: World) -> None:
    first = await world.scheduler(MINUTELY)
    world.clock.advance(5 * 3600)
    await drive(first)
    world.clock.set_now_us(BEGIN_US)  # and the first is dead
    second = await world.scheduler(MINUTELY)
    await drive(second)
    assert second.leads


async def test_a_new_release(world: World) -> None:
    gone, kept = replaced(MINUTELY, name="gone"), replaced(MINUTELY, name="kept")
    paused, changed = replaced(MINUTELY, name="paused"), replaced(MINUTELY, name="changed")
    first = await world.scheduler(gone, kept, paused, changed)
    await world.operate.add(replaced(MINUTELY, name="own"))
    await world.operate.pause("paused")
    await drive(first)
    world.clock.advance(50)
    faster, otherwise = replaced(changed, when=Every(7)), replaced(kept, call=call("other"))
    await world.scheduler(otherwise, replaced(paused, when=Every(9)), faster, replaced(MINUTELY, name="new"))
    shown = {
        one.name: (one.status, one.next_fire_us and (one.next_fire_us - BEGIN_US) // SECOND)
        for one in await world.operate.all()
    }
    assert shown == {
        "changed": (ScheduleStatus.ACTIVE, -(-(BEGIN_US // SECOND + 51) // 7) * 7 - BEGIN_US // SECOND),
        "gone": (ScheduleStatus.DISABLED, None),
        "kept": (ScheduleStatus.ACTIVE, 60),
        "new": (ScheduleStatus.ACTIVE, 60),
        "own": (ScheduleStatus.ACTIVE, 60),
        "paused": (ScheduleStatus.PAUSED, None),
    }
    world.clock.advance(50)
    await drive(first)
    assert (await world.jobs("kept"), await world.jobs("gone"), await world.jobs("paused")) == ([60], [], [])
    await world.scheduler(gone)
    assert (await world.operate.show("gone")).next_fire_us == BEGIN_US + 120 * SECOND
    assert (await world.operate.resume("paused")).status is ScheduleStatus.DISABLED
    await world.scheduler(gone, replaced(paused, when=Every(9)))
    assert (await world.operate.show("paused")).status is ScheduleStatus.ACTIVE


@pytest.mark.parametrize(
    ("policy", "jobs", "states", "decided"),
    [
        (Overlap.QUEUE, [60, 120, 180], ["done", "waiting", "waiting"], ["fired"] * 3),
        (Overlap.PARALLEL, [60, 120, 180], ["done", "waiting", "waiting"], ["fired"] * 3),
        (Overlap.SKIP, [60, 180], ["done", "waiting"], ["fired", "overlapped", "fired"]),
        (Overlap.REPLACE, [60, 120, 180], ["cancelled", "waiting", "waiting"], ["fired"] * 3),
    ],
)
async def test_overlap(world: World, policy: Overlap, jobs: list[int], states: list[str], decided: list[str]) -> None:
    scheduler = await world.scheduler(replaced(MINUTELY, overlap=policy))
    await drive(scheduler)
    for _ in range(2):
        world.clock.advance(60)
        await drive(scheduler)
    if policy is not Overlap.REPLACE:
        await world.finish(1)
    else:
        await world.finish(2)
        states = ["cancelled", "done", "waiting"]
    world.clock.advance(60)
    await drive(scheduler)
    assert await world.jobs() == jobs
    assert await world.states() == states
    assert [one[0] for one in await world.decided("minutely")] == decided
    marks = {mark for (mark,) in await world.store.fetch_all("SELECT mark FROM fake_jobs")}
    assert (marks == {None}) is (policy is Overlap.PARALLEL)


async def test_one_that_cannot_fire_holds_up_no_other(world: World) -> None:
    bad = replaced(MINUTELY, name="bad", call=call("refused"), misfire=Misfire.ALL)
    others = [replaced(MINUTELY, name=f"s{n}") for n in range(4)]
    scheduler = await world.scheduler(bad, *others, replaced(MINUTELY, name="torn"))
    await world.store.write(
        lambda tx: tx.execute("UPDATE dougong_job_schedules SET definition = '{\"newer\": 1' WHERE name = 'torn'")
    )
    world.clock.advance(60)
    await drive(scheduler)
    assert await world.jobs() == [60] * 4
    shown = {one.name: one for one in await world.operate.all()}
    assert {name for name, one in shown.items() if one.status is ScheduleStatus.FAULTY} == {"bad", "torn"}
    assert "no worker could ever take it" in shown["bad"].fault
    assert shown["torn"].schedule is None
    world.clock.advance(90)
    fixed = await world.scheduler(replaced(bad, call=call()), *others)
    await drive(scheduler)
    assert await world.jobs("bad") == [60, 120]  # nothing of it was lost
    assert not fixed.leads


async def test_the_databases_own_clock(world: World) -> None:
    """Whatever the machine's says; on SQLite it is the injected one."""
    times = DatabaseTime(world.store.dialect, world.clock)
    stamp = await world.store.read(times.now_us)
    if world.store.dialect == "sqlite":
        assert stamp == BEGIN_US
    else:
        assert abs(stamp / 1e6 - time.time()) < 60


async def test_run_until_stopped(world: World) -> None:
    """With the real clock: it fires by itself, gives the lease back, and another begins at once."""
    settings = SchedulerSettings(interval_s=0.05, lease_ttl_s=600)
    for _ in range(2):
        scheduler = Scheduler(world.queue, world.store, [replaced(MINUTELY, when=Every(1))], settings=settings)
        await scheduler.start()
        before = len(await world.jobs())
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            group.create_task(scheduler.run())
            while len(await world.jobs()) == before:
                await asyncio.sleep(0.05)
            scheduler.stop()
        assert not scheduler.leads


async def test_a_database_that_is_away_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = await world.scheduler(MINUTELY, settings=SchedulerSettings(interval_s=0.01))
    failures: list[Exception] = [Error("gone", code="connection_lost"), ValueError("a bug"), Error("gone", code="x")]
    turn = scheduler.turn

    async def failing() -> float:
        if failures:
            raise failures.pop()
        world.clock.advance(60)
        return await turn()

    monkeypatch.setattr(scheduler, "turn", failing)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(scheduler.run())
        while not await world.jobs():
            await asyncio.sleep(0.01)
        scheduler.stop()
    assert failures == []


async def test_a_single_time(world: World) -> None:
    once = Schedule("once", At(BEGIN_US + 90 * SECOND), call())
    past = Schedule("past", At(BEGIN_US - 90 * SECOND), call())
    long_past = Schedule("long past", At(BEGIN_US - 24 * HOUR), call())
    scheduler = await world.scheduler(once, past, long_past)
    await drive(scheduler)
    world.clock.advance(100)
    await drive(scheduler)
    again = await world.scheduler(once, past, long_past)
    scheduler.stop()
    await scheduler.run()
    await drive(again)
    assert await world.jobs() == [-90, 90]
    assert {one.status for one in await world.operate.all()} == {ScheduleStatus.OVER}
    assert await world.decided("long past") == [("missed", -86_400, 1)]


@pytest.mark.parametrize(
    "make",
    [
        lambda: SchedulerSettings(interval_s=6),
        lambda: SchedulerSettings(rows_at_once=0),
        lambda: SchedulerSettings(retry_s=0),
        lambda: replaced(MINUTELY, name=""),
        lambda: replaced(MINUTELY, shards=0),
        lambda: replaced(MINUTELY, jitter_s=-1.0),
        lambda: replaced(MINUTELY, call=replaced(call(), key="k")),  # type: ignore[arg-type]
        lambda: replaced(MINUTELY, start_us=2, end_us=1),
    ],
)
def test_what_makes_no_sense_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(Invalid) as refused:
        make()
    assert refused.value.code in {"bad_settings", "bad_schedule"}


async def test_what_was_missed_comes_in_units_that_a_queue_takes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty fires of forty shards are 1,200 jobs; a unit has about a hundred, and one fire at least."""
    sizes: list[int] = []
    put = Firing.put

    async def counted(firing: Firing, tx: Tx, fires: list[tuple[Plan, int]], *rest: object) -> object:
        sizes.append(sum(one.schedule.shards for one, _ in fires))
        return await put(firing, tx, fires, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Firing, "put", counted)
    settings = SchedulerSettings(jobs_at_once=100)
    scheduler = await world.scheduler(
        replaced(MINUTELY, shards=40), replaced(MINUTELY, name="whole", shards=300), settings=settings
    )
    world.clock.advance(1800)
    await drive(scheduler)
    assert len(await world.jobs("minutely")) == 1200
    assert len(await world.jobs("whole")) == 9000
    assert max(sizes) <= 100 + 300


async def test_a_plan_made_before_an_operator_paused_it_is_not_carried_out(world: World) -> None:
    first, _, wake = await sleeper(world)
    await world.operate.pause("minutely")
    world.clock.set_now_us(BEGIN_US)  # so that its lease still lasts
    await wake()
    assert first.leads
    assert await world.jobs() == []
    assert (await world.operate.show("minutely")).status is ScheduleStatus.PAUSED
