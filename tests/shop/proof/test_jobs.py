"""The claim about jobs: each library carries the same jobs, what is lost shows, and the measure can fail."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.engines import make_redis

from dougong.evidence import NotShown, Redis
from dougong.jobs import QueueSettings, SqlQueue
from shop.proof.jobs import enqueuing, stand, systems
from shop.proof.jobs.claim import effects_problems, fastest
from shop.proof.jobs.enqueuing import Order
from shop.proof.jobs.our_jobs import on_sqlite
from shop.proof.jobs.resizing import Resized, resize_problems, resized
from shop.proof.jobs.scheduling import scheduled
from shop.proof.jobs.stand import Crashed
from shop.proof.jobs.systems import SYSTEMS, OnRedis, empty
from shop.proof.jobs.tally import Tally


@pytest.fixture(scope="module")
def server() -> Iterator[Redis]:
    started = make_redis(buffer_mb=64, options=("--appendonly", "yes"))
    yield started
    started.remove()


def _tally(folder: Path, room: int = 10_000) -> Tally:
    return Tally.create(folder / "tally", room)


def test_a_tally_is_one_for_all_who_open_it(tmp_path: Path) -> None:
    tally = _tally(tmp_path, 10)
    other = Tally(tally.path)
    tally.due(3, 100.0)
    for number in (3, 4, 4, *[5] * 300):
        other.note(number)
    assert tally.room == 10
    assert (tally.ran(10), tally.ran(5, 4), tally.ran(3)) == (3, 1, 0)
    assert (tally.doubled(10), tally.doubled(5), tally.doubled(10, 5)) == (2, 1, 1)
    (picked_up, *_) = tally.picked_up_s(10)
    assert len(tally.picked_up_s(10)) == 3
    assert tally.picked_up_s(4, 3) == [picked_up]
    tally.close()
    other.close()


def test_what_began_and_did_not_end_runs_or_was_interrupted(tmp_path: Path) -> None:
    tally = _tally(tmp_path, 10)
    for number in (1, 2, 3, 3):
        tally.note(number)
    assert (tally.at_once(10), tally.at_once(10, 2), tally.at_once(1)) == (3, 2, 0)
    tally.end(1)
    tally.end(3)
    assert (tally.at_once(10), tally.at_once(3, 2), tally.doubled(10)) == (1, 1, 1)
    assert len(tally.picked_up_s(10)) == 3
    tally.close()


@pytest.mark.parametrize("batch", [1, 10])
async def test_no_more_are_enqueued_than_may_wait(tmp_path: Path, batch: int) -> None:
    tally = _tally(tmp_path)
    most_waiting = 0
    enqueued: list[int] = []

    async def put(job: str, numbers: range) -> None:
        nonlocal most_waiting
        enqueued.extend(numbers)
        most_waiting = max(most_waiting, len(enqueued) - tally.ran(10_000))
        await asyncio.sleep(0)

    async def run() -> None:
        while len(enqueued) < 500:
            for number in enqueued:
                if not tally.ran(number + 1, number):
                    tally.note(number)
            await asyncio.sleep(0.001)

    pace = enqueuing._Pace(Order(first=0, count=500, batch=batch, window=50), tally)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(run())
        carried = await enqueuing._by_tasks("nothing", put, pace)
    assert carried.count == 500
    assert sorted(enqueued) == list(range(500))
    assert 0 < most_waiting <= 50
    tally.close()


async def test_on_schedule_nothing_waits_for_what_runs(tmp_path: Path) -> None:
    tally = _tally(tmp_path)
    enqueued: list[int] = []

    def put(job: str, number: int) -> None:
        enqueued.append(number)

    pace = enqueuing._Pace(Order(first=0, count=200, rate=2_000, window=1), tally)
    await enqueuing._by_threads("nothing", put, pace)
    assert sorted(enqueued) == list(range(200))
    for number in (0, 100):
        tally.note(number)
    first, later = tally.picked_up_s(101)
    assert first - later == pytest.approx(0.05, abs=0.001)  # due so long after each other; noted in one moment
    tally.close()


@pytest.mark.processes
@pytest.mark.parametrize("name", SYSTEMS)
async def test_each_library_carries_the_jobs(server: Redis, tmp_path: Path, name: str) -> None:
    await empty(server, "everysec")
    queued = OnRedis(SYSTEMS[name], server, tmp_path)
    async with stand.stand(queued, "nothing", tmp_path, room=1_000) as started:
        carried = await started.carry(seconds=0.2, window=40)
        assert carried.jobs >= 1
        assert (carried.lost, carried.doubled) == (0, 0)
        assert await queued.left() == 0
        assert started.memory_mb() > 1


@pytest.mark.processes
async def test_ours_carries_them_one_by_one_and_in_batches(tmp_path: Path) -> None:
    async with (
        on_sqlite(tmp_path / "jobs.db") as queued,
        stand.stand(queued, "pause", tmp_path, room=99_000) as started,
    ):
        for batch in (1, 20):
            carried = await started.carry(seconds=0.2, batch=batch, window=200)
            assert carried.jobs >= batch
            assert (carried.lost, carried.doubled) == (0, 0)
        picked_up = await started.pick_up(rate=100, seconds=0.3)
        assert picked_up.count == 30
        assert 0 < picked_up.p50_ms <= picked_up.p99_ms


@pytest.mark.processes
async def test_ours_loses_nothing_when_its_worker_is_killed_and_has_each_effect_once(tmp_path: Path) -> None:
    async with on_sqlite(tmp_path / "jobs.db") as queued:
        async with stand.stand(queued, "effect", tmp_path, room=5_000) as started:
            crashed = await started.crash(jobs=1_000, patience_s=60)
        assert effects_problems(crashed, await queued.effects()) == []


@pytest.mark.processes
async def test_ours_is_resized_under_load_and_interrupts_nothing(tmp_path: Path) -> None:
    async with on_sqlite(tmp_path / "jobs.db") as queued, stand.stand(queued, "busy", tmp_path, room=9_000) as started:
        found = await resized(queued, started, rounds=1, patience_s=60)
    assert 0 < found.longest_s < 60
    assert (found.times, found.interrupted) == (2, 0)
    assert resize_problems(found) == []


@pytest.mark.processes
async def test_a_number_that_no_worker_follows_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def unheard(self: SqlQueue, queue: str, settings: QueueSettings) -> None: ...

    async with on_sqlite(tmp_path / "jobs.db") as queued, stand.stand(queued, "busy", tmp_path, room=300) as started:
        monkeypatch.setattr(SqlQueue, "configure", unheard)
        found = await resized(queued, started, rounds=1, patience_s=0.1)
    assert found.longest_s >= 0.1
    assert found.lost == found.interrupted == 0


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        (Resized(2, 0.1, 9_000, lost=0, interrupted=0, most=10, waiting=500), ""),
        (Resized(2, 0.1, 9_000, lost=3, interrupted=0, most=10, waiting=500), "3 of 9,000 jobs did not run"),
        (Resized(2, 0.1, 9_000, lost=0, interrupted=0, most=11, waiting=500), "11 jobs ran at once where 10 may"),
        (Resized(2, 0.1, 9_000, lost=0, interrupted=0, most=10, waiting=99), "only 99 jobs waited"),
    ],
)
def test_resizing_without_load_or_beyond_what_may_run_refutes_the_claim(found: Resized, problem: str) -> None:
    problems = resize_problems(found)
    assert any(problem in one for one in problems) if problem else not problems


@pytest.mark.processes
async def test_jobs_that_nobody_runs_are_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stand, "_STALL_S", 0.5)
    monkeypatch.setattr(stand, "_SETTLE_S", 0.1)
    async with on_sqlite(tmp_path / "jobs.db") as queued, stand.stand(queued, "nothing", tmp_path, room=20) as started:
        await started.kill()
        carried = await started.carry(seconds=60.0)
        assert carried.jobs == carried.lost == 19
        assert carried.jobs_per_s == 0


@pytest.mark.parametrize(
    ("lost", "had", "problem"),
    [
        (0, [1, 2, 3, 4], ""),
        (1, [1, 2, 3], "lost 1 of 3 jobs"),
        (0, [1, 3, 4], "1 of 3 jobs had no effect"),
        (0, [1, 2, 2, 3], "1 effects happened again"),
    ],
)
def test_a_job_lost_and_an_effect_that_happens_again_refute_the_claim(lost: int, had: list[int], problem: str) -> None:
    found = effects_problems(Crashed(jobs=3, lost=lost, doubled=1, recovered_s=1.0), had)
    assert any(problem in one for one in found) if problem else not found


def test_the_fastest_library_is_repeated_with_what_it_was_fastest_on() -> None:
    figures = {
        "celery_always_nothing_per_s": 3.0,
        "huey_everysec_nothing_per_s": 5.0,
        "arq_everysec_nothing_per_s": 4.0,
        "arq_everysec_pause_per_s": 2.0,
        "arq_everysec_p99_ms": 9.0,
    }
    assert fastest(figures, "nothing") == ("huey", "everysec")
    assert fastest(figures, "pause") == ("arq", "everysec")


@pytest.mark.processes
async def test_a_scheduler_fires_while_its_cost_is_taken(tmp_path: Path) -> None:
    cost = await scheduled(tmp_path, schedules=6_000, seconds=2.0)
    assert cost.fires > 0
    assert cost.fires_due == 20
    assert cost.memory_mb > 1


def test_a_library_that_is_not_there_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(NotShown, match="celery is missing"):
        systems.environment_of(SYSTEMS["celery"], tmp_path)


def test_a_library_that_cannot_be_installed_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(NotShown, match="arq cannot be installed"):
        systems.environment_of(SYSTEMS["arq"], tmp_path)
