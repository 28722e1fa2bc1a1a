"""The claim about jobs: on the disk before anybody is told so, and faster than libraries on a Redis in memory."""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import get_args

import msgspec

from dougong.evidence import Claim, Figures, NotShown, Ratio, Setting, Threshold, median
from shop.proof.jobs.our_jobs import BUSY_S, FEW, MANY, on_sqlite
from shop.proof.jobs.resizing import resize_problems, resized
from shop.proof.jobs.scheduling import scheduled
from shop.proof.jobs.stand import WINDOW, Carried, Crashed, stand
from shop.proof.jobs.systems import SYSTEMS, JobName, OnRedis, Sync, empty, redis_server

__all__ = ["JobsExperiment", "Plan", "jobs"]

_BATCH = 200
_OUR_WINDOW = 8_000
_SCHEDULES = 10_000
_KILLED, _OUR_KILLED = 300, 3_000
"""Jobs enqueued together, of which a third runs before the worker is killed."""


class Plan(msgspec.Struct, frozen=True):
    """How much of it is done."""

    systems: Sequence[str]
    syncs: Sequence[Sync]
    seconds: float
    """Of each measurement."""
    waiting: int
    scheduler_s: float
    rounds: int
    """With and without a backlog, in turn."""
    resizes: int
    """From few to many, and back."""
    room: int = 1_000_000
    """Jobs that one measurement can tell apart."""
    crash: bool = True
    patience_s: float = 20.0


_WHOLE = Plan(tuple(SYSTEMS), get_args(Sync), 1.5, 1_000_000, 15.0, 3, 5)
_QUICK = Plan(("dramatiq", "taskiq"), ("everysec",), 0.7, 50_000, 2.0, 1, 1, crash=False)
_JOBS: tuple[JobName, ...] = ("nothing", "pause")
_TOLD: Mapping[JobName, str] = {"nothing": "do nothing", "pause": "wait for 1 ms"}


class JobsExperiment:
    """Each library on its own, with nothing else at work: two cores are few.

    The first pair is of everything; the others repeat what is judged against one another: ours, and what was fastest.
    """

    def __init__(self, plan: Plan, folder: Path, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._folder = folder
        self._say = say
        self._numbers = itertools.count(1)
        self._problems: list[str] = []
        self._fastest: dict[JobName, tuple[str, Sync]] = {}
        """Found in the first pair."""

    async def baseline(self, pair: int) -> Figures:
        figures: dict[str, float] = {}
        if pair > 0:
            for job, (name, sync) in self._fastest.items():
                figures |= _named(name, sync, await self._library(name, sync, (job,)))
        else:
            missing: list[str] = []
            for name in self._plan.systems:
                for sync in self._plan.syncs:
                    try:
                        # Where they sync each time, what they wait for is the disk: one kind of job tells it.
                        of: Sequence[JobName] = _JOBS if sync == "everysec" else ("nothing",)
                        figures |= _named(name, sync, await self._library(name, sync, of, pick_up=True))
                    except NotShown as reason:
                        missing.append(reason.message)
                        self._say(reason.message)
                if self._plan.crash and f"{name}_{self._plan.syncs[0]}_nothing_per_s" in figures:
                    crashed = await self._library_killed(name)
                    figures |= {f"{name}_{figure}": value for figure, value in _crashed(crashed).items()}
            if not figures:
                raise NotShown(missing[0])
            self._fastest = {job: fastest(figures, job) for job in _JOBS}
        for job in _JOBS:
            figures[f"fastest_{job}_per_s"] = max(_of(figures, f"_{job}_per_s"))
        return figures

    async def ours(self, pair: int) -> Figures:
        figures = {**await self._ours(whole=pair == 0)}
        if pair > 0:
            return figures
        figures |= await self._backlog()
        figures |= await self._resized()
        self._say(f"ours: {_SCHEDULES:,} schedules")
        async with self._workdir() as folder:
            schedules = await scheduled(folder, schedules=_SCHEDULES, seconds=self._plan.scheduler_s)
        if not 0.5 * schedules.fires_due < schedules.fires < 2 * schedules.fires_due:
            self._problems.append(f"of {schedules.fires_due:.0f} fires that were due, {schedules.fires} came")
        if self._plan.crash:
            figures |= _crashed(await self._ours_killed())
        return {**figures, "scheduler_share": schedules.share}

    async def verify(self) -> Sequence[str]:
        return self._problems

    async def _library(
        self, name: str, sync: Sync, of: Sequence[JobName], *, pick_up: bool = False
    ) -> Mapping[str, float]:
        plan = self._plan
        figures: dict[str, float] = {}
        async with self._workdir() as folder:
            with redis_server(folder / "redis") as server:
                queued = OnRedis(SYSTEMS[name], server, self._folder)
                for job in of:
                    await empty(server, sync)
                    self._say(f"{name}, {sync}: jobs that {_TOLD[job]}")
                    async with stand(queued, job, folder, room=plan.room) as started:
                        await started.warm_up(200)
                        figures |= self._carried(name, job, await started.carry(seconds=plan.seconds))
                        if pick_up and job == "nothing":
                            self._say(f"{name}, {sync}: picked up")
                            picked_up = await started.pick_up(rate=200, seconds=plan.seconds)
                            figures |= {"p50_ms": picked_up.p50_ms, "p99_ms": picked_up.p99_ms}
        return figures

    async def _library_killed(self, name: str) -> Crashed:
        self._say(f"{name}: its worker is killed")
        async with self._workdir() as folder:
            with redis_server(folder / "redis") as server:
                await empty(server, "everysec")
                queued = OnRedis(SYSTEMS[name], server, self._folder)
                async with stand(queued, "pause", folder, room=self._plan.room) as started:
                    return await started.crash(jobs=_KILLED, patience_s=self._plan.patience_s)

    async def _ours(self, *, whole: bool) -> Mapping[str, float]:
        plan, seconds = self._plan, self._plan.seconds
        figures: dict[str, float] = {}
        async with self._workdir() as folder, on_sqlite(folder / "jobs.db") as queued:
            async with stand(queued, "nothing", folder, room=plan.room) as started:
                self._say("ours: jobs that do nothing")
                await started.warm_up()
                figures |= self._carried("ours", "nothing", await started.carry(seconds=seconds, window=_OUR_WINDOW))
                if whole:
                    self._say("ours: the same, enqueued in batches")
                    batches = await started.carry(seconds=seconds, batch=_BATCH, window=_OUR_WINDOW)
                    figures |= {
                        f"batch_{figure}": value for figure, value in self._carried("ours", "nothing", batches).items()
                    }
                for rate in (200, 1_000) if whole else (1_000,):
                    self._say(f"ours: picked up, at {rate:,} jobs/s")
                    picked_up = await started.pick_up(rate=rate, seconds=seconds)
                    figures |= {f"p50_ms_at_{rate}": picked_up.p50_ms, f"p99_ms_at_{rate}": picked_up.p99_ms}
            async with stand(queued, "pause", folder, room=plan.room) as started:
                self._say("ours: jobs that wait for 1 ms")
                await started.warm_up()
                figures |= self._carried("ours", "pause", await started.carry(seconds=seconds, window=_OUR_WINDOW))
        return figures

    async def _ours_killed(self) -> Crashed:
        self._say("ours: its worker is killed")
        async with self._workdir() as folder, on_sqlite(folder / "jobs.db") as queued:
            async with stand(queued, "effect", folder, room=self._plan.room) as started:
                crashed = await started.crash(jobs=_OUR_KILLED, patience_s=self._plan.patience_s)
            had = await queued.effects()
        self._problems += effects_problems(crashed, had)
        return crashed

    async def _backlog(self) -> Mapping[str, float]:
        """As many enqueued as run, while many wait and while few do: in turn, on two databases."""
        plan, seconds = self._plan, self._plan.seconds
        few: list[float] = []
        many: list[float] = []
        memory_mb: list[float] = []
        async with AsyncExitStack() as stack:
            folders = [await stack.enter_async_context(self._workdir()) for _ in range(2)]
            queues = [await stack.enter_async_context(on_sqlite(folder / "jobs.db")) for folder in folders]
            room = plan.waiting + plan.room
            without = await stack.enter_async_context(stand(queues[0], "nothing", folders[0], room=room))
            waiting = await stack.enter_async_context(stand(queues[1], "nothing", folders[1], room=room))
            self._say(f"ours: {plan.waiting:,} jobs are enqueued")
            await queues[1].pause(True)
            await waiting.enqueue(count=plan.waiting, batch=1_000, window=plan.waiting)
            for _ in range(plan.rounds):
                self._say("ours: with and without them")
                few.append(await without.steady(seconds=seconds, batch=_BATCH, window=_OUR_WINDOW))
                await queues[1].pause(False)
                many.append(await waiting.steady(seconds=seconds, batch=_BATCH, window=_OUR_WINDOW, ahead=plan.waiting))
                memory_mb.append(waiting.memory_mb())
                await queues[1].pause(True)
            return {
                "backlog_per_s": median(many),
                "no_backlog_per_s": median(few),
                "backlog_ratio": median(many) / median(few),
                "backlog_memory_mb": max(memory_mb),
                "backlog_jobs": plan.waiting,
            }

    async def _resized(self) -> Mapping[str, float]:
        self._say(f"ours: {FEW} jobs at once, then {MANY}, then {FEW}")
        async with (
            self._workdir() as folder,
            on_sqlite(folder / "jobs.db") as queued,
            stand(queued, "busy", folder, room=self._plan.room) as started,
        ):
            found = await resized(queued, started, rounds=self._plan.resizes, patience_s=self._plan.patience_s)
        self._problems += resize_problems(found)
        return {
            "resize_s": found.longest_s,
            "resizes": found.times,
            "resized_jobs": found.jobs,
            "interrupted": found.interrupted,
        }

    def _carried(self, name: str, job: str, carried: Carried) -> Mapping[str, float]:
        if carried.lost or (name == "ours" and carried.doubled):
            problem = f"{name}: of {carried.jobs:,} jobs {carried.lost} did not run, {carried.doubled} ran twice"
            self._say(problem)
            if name == "ours":
                self._problems.append(problem)
        return {
            f"{job}_per_s": carried.jobs_per_s,
            f"{job}_enqueue_us": carried.enqueue_us,
            f"{job}_work_us": carried.work_us,
            f"{job}_memory_mb": carried.memory_mb,
        }

    @asynccontextmanager
    async def _workdir(self) -> AsyncGenerator[Path]:
        folder = self._folder / str(next(self._numbers))
        folder.mkdir()
        try:
            yield folder
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def effects_problems(crashed: Crashed, had: Sequence[int]) -> Sequence[str]:
    """What refutes that jobs numbered from 1 on, and more after them, each had their effect (`had`) once."""
    problems: list[str] = []
    if crashed.lost:
        problems.append(f"ours lost {crashed.lost} of {crashed.jobs} jobs when its worker was killed")
    if missing := len(set(range(1, crashed.jobs + 1)) - set(had)):
        problems.append(f"{missing} of {crashed.jobs} jobs had no effect")
    if more := len(had) - len(set(had)):
        problems.append(f"{more} effects happened again")
    return problems


def _crashed(crashed: Crashed) -> Mapping[str, float]:
    return {"killed_lost": crashed.lost, "killed_doubled": crashed.doubled, "killed_recovered_s": crashed.recovered_s}


def _named(name: str, sync: Sync, figures: Mapping[str, float]) -> Mapping[str, float]:
    return {f"{name}_{sync}_{figure}": value for figure, value in figures.items()}


def fastest(figures: Mapping[str, float], job: JobName) -> tuple[str, Sync]:
    """Which library, on a Redis that syncs how, carried most of those jobs."""
    measured = [
        (figures[of], name, sync)
        for name, sync in itertools.product(SYSTEMS, get_args(Sync))
        if (of := f"{name}_{sync}_{job}_per_s") in figures
    ]
    _, name, sync = max(measured)
    return name, sync


def _of(figures: Mapping[str, float], end: str) -> Iterator[float]:
    return (value for name, value in figures.items() if name.endswith(end))


@asynccontextmanager
async def _side_by_side(setting: Setting) -> AsyncGenerator[JobsExperiment]:
    folder = setting.workdir.absolute() / "data"  # a temporary directory may be in memory, where nothing is durable
    folder.mkdir()
    try:
        yield JobsExperiment(_QUICK if setting.quick else _WHOLE, folder, setting.say)
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _table() -> str:
    ours = ("nothing_per_s]:,.0f", "pause_per_s]:,.0f", "p50_ms_at_200]:.1f", "p99_ms_at_200]:.1f")
    rows = [
        "| library, Redis syncs | does nothing, jobs/s | waits 1 ms, jobs/s | picked up at 200/s, P50 ms | P99 ms |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| ours, SQLite syncs each commit |" + "".join(f" {{ours[{column}}} |" for column in ours),
        f"| ours, {_BATCH} at once | {{ours[batch_nothing_per_s]:,.0f}} | | | |",
    ]
    for name, sync in itertools.product(SYSTEMS, get_args(Sync)):
        of = f"baseline[{name}_{sync}_"
        columns = ("nothing_per_s]:,.0f", "pause_per_s]:,.0f", "p50_ms]:.1f", "p99_ms]:.1f")
        cells = [f" {{{of}{column}}} |" for column in columns]
        if sync == "always":
            cells[1] = " |"
        rows.append(f"| {name}, {sync} |" + "".join(cells))
    rows += [
        "",
        f"| its worker killed among {_KILLED} jobs (ours {_OUR_KILLED:,}) | lost | run twice | all back after, s |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, of in (("ours", "ours["), *((name, f"baseline[{name}_") for name in SYSTEMS)):
        killed = ("killed_lost]:.0f", "killed_doubled]:.0f", "killed_recovered_s]:.1f")
        rows.append(f"| {name} |" + "".join(f" {{{of}{column}}} |" for column in killed))
    rows += [
        "",
        f"| resized by an operator, {FEW} to {MANY} and back | jobs | longest until it holds, s | interrupted |",
        "| ---: | ---: | ---: | ---: |",
        "| {ours[resizes]:.0f} times | {ours[resized_jobs]:,.0f} | {ours[resize_s]:.2f} | {ours[interrupted]:.0f} |",
    ]
    return "\n".join(rows)


jobs = Claim(
    name="jobs",
    title="Jobs on the disk, faster than in memory",
    situation=(
        "Celery, Dramatiq, arq, taskiq and Huey on a Redis, each as its documentation has it for many short jobs, with "
        "the safest acknowledgement that it has: Celery with late acknowledgement, a prefetch of 128 and no results; "
        "Dramatiq and taskiq (on a stream) acknowledge when a job is done; arq takes it off its queue then; Huey takes "
        "it off before. Redis writes its log with `appendfsync always`, as durable as ours, and with `everysec`, where "
        "a second of acknowledged jobs is lost with the machine."
    ),
    task=(
        "10,000 jobs a second end to end on two cores, enqueuer and worker, each enqueue and end on the disk, ahead "
        "of each library on either Redis; picked up within 20 ms P99 at 1,000/s; a million waiting jobs that cost "
        "neither speed nor 100 MB of the worker's memory; a scheduler with 10,000 schedules on 5 % of a core; an "
        "operator's number that holds within a second under load, and interrupts no job."
    ),
    action=(
        "256 callers (16 threads where the library has no asyncio) enqueue one by one, as fast as they are answered, "
        f"at most {WINDOW} jobs ahead of what ran ({_OUR_WINDOW:,} for ours, which answers many at once); none of the "
        "libraries enqueues in batches; jobs that wait for 1 ms with `everysec` only. A run ends when every job ran "
        "and nothing is left to be acknowledged. A worker is two processes, or one with 32 threads (Celery and "
        "Huey, for jobs that wait), or just one (arq, ours). Then it is killed among its jobs and another "
        "started: what the dead one had comes back after 5 s (arq: 11), and lost is what did not run within 20. "
        "Each job counts its runs, and ours, after the kill, its effects. A worker that runs "
        f"{FEW} jobs at once, of {BUSY_S * 1000:.0f} ms each, with thousands waiting and more coming, is told {MANY} "
        f"by another process, and then {FEW} again, by the call that `dougong jobs resize` makes: from before it until "
        f"95 run at once, or {FEW} again; interrupted is what began and did not end, or ran twice. The first pair of "
        "runs is of everything; five more repeat ours, and the library that was fastest in it."
    ),
    result=(
        "{ours[nothing_per_s]:,.0f} jobs/s enqueued one by one ({ratio[fastest]:.1f} × the fastest library), "
        f"{{ours[batch_nothing_per_s]:,.0f}} {_BATCH} at once; {{ours[pause_per_s]:,.0f}}/s that wait for 1 ms "
        "({ratio[fastest_pause]:.1f} ×); picked up after P50 {ours[p50_ms_at_1000]:.1f}, P99 "
        "{ours[p99_ms_at_1000]:.1f} ms at 1,000/s; with {ours[backlog_jobs]:,.0f} waiting {ours[backlog_ratio]:.2f} × "
        "as fast, the worker {ours[backlog_memory_mb]:.0f} MB; scheduler {ours[scheduler_share]:.1%} of a core; "
        "resized under load within {ours[resize_s]:.2f} s, {ours[interrupted]:.0f} jobs interrupted."
    ),
    table=_table(),
    experiment=_side_by_side,
    ratios={
        "fastest": Ratio("nothing_per_s", "fastest_nothing_per_s"),
        "fastest_pause": Ratio("pause_per_s", "fastest_pause_per_s"),
    },
    thresholds=(
        Threshold("ours.nothing_per_s", at_least=10_000),
        Threshold("ratio.fastest", at_least=1),
        Threshold("ratio.fastest_pause", at_least=1),
        Threshold("ours.p99_ms_at_1000", at_most=20),
        Threshold("ours.backlog_ratio", at_least=0.9),
        Threshold("ours.backlog_memory_mb", at_most=100),
        Threshold("ours.scheduler_share", at_most=0.05),
        Threshold("ours.resize_s", at_most=1),
        Threshold("ours.interrupted", at_most=0),
    ),
    pairs_quick=1,
)
