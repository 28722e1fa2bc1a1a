"""The claim about jobs on Kafka: whoever stands behind a slow one does not wait for it, and nothing is forgotten."""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import msgspec

from dougong.evidence import Claim, Figures, KafkaBroker, Ratio, Setting, Threshold
from shop.proof.jobs.kafka_jobs import on_kafka
from shop.proof.jobs.plain_consumer import make_topic
from shop.proof.jobs.stand import Carried, Queued, stand

__all__ = ["KafkaExperiment", "jobs_kafka"]

_BATCH = 200
_WINDOW = 8_000
_RATE = 400.0


class _Plan(msgspec.Struct, frozen=True):
    seconds: float
    uneven_s: float
    room: int = 1_000_000


_WHOLE = _Plan(2.0, 4.0)
_QUICK = _Plan(1.0, 2.5)


class KafkaExperiment:
    """Both on one broker, in turn, each time on topics of their own."""

    def __init__(self, plan: _Plan, broker: str, folder: Path, setting: Setting) -> None:
        self._plan = plan
        self._broker = broker
        self._folder = folder
        self._say = setting.say
        self._numbers = itertools.count(1)
        self._problems: list[str] = []

    async def baseline(self, pair: int) -> Figures:
        return await self._measured("plain consumers", self._plain)

    async def ours(self, pair: int) -> Figures:
        return await self._measured("ours", lambda folder: on_kafka(self._broker, f"ours-{folder.name}.", folder))

    @asynccontextmanager
    async def _plain(self, folder: Path) -> AsyncGenerator[Queued]:
        yield await make_topic(self._broker, f"plain-{folder.name}")

    async def verify(self) -> Sequence[str]:
        return self._problems

    async def _measured(self, who: str, make: Callable[[Path], AbstractAsyncContextManager[Queued]]) -> Figures:
        plan = self._plan
        folder = self._new_folder()
        async with make(folder) as queued, stand(queued, "nothing", folder, room=plan.room) as started:
            await started.warm_up()
            self._say(f"{who}: enqueued one by one")
            single = await started.carry(seconds=plan.seconds, window=_WINDOW)
            self._say(f"{who}: enqueued {_BATCH} at once")
            batches = await started.carry(seconds=plan.seconds, batch=_BATCH, window=_WINDOW)
        self._check(who, single)
        self._check(who, batches)
        folder = self._new_folder()  # the group would wait for its member that was killed
        async with make(folder) as queued, stand(queued, "uneven", folder, room=plan.room) as started:
            await started.warm_up(100)
            self._say(f"{who}: beside slow jobs")
            beside = await started.pick_up(rate=_RATE, seconds=plan.uneven_s)
        return {
            "nothing_per_s": single.jobs_per_s,
            "enqueue_us": single.enqueue_us,
            "work_us": single.work_us,
            "batch_per_s": batches.jobs_per_s,
            "batch_enqueue_us": batches.enqueue_us,
            "batch_work_us": batches.work_us,
            "memory_mb": batches.memory_mb,
            "beside_slow_p50_ms": beside.p50_ms,
            "beside_slow_p99_ms": beside.p99_ms,
        }

    def _check(self, who: str, carried: Carried) -> None:
        if carried.lost or carried.doubled:
            self._problems.append(
                f"{who}: of {carried.jobs:,} jobs {carried.lost} did not run, {carried.doubled} twice"
            )

    def _new_folder(self) -> Path:
        folder = self._folder / str(next(self._numbers))
        folder.mkdir()
        return folder


@asynccontextmanager
async def _on_a_broker(setting: Setting) -> AsyncGenerator[KafkaExperiment]:
    folder = setting.workdir.absolute() / "data"
    (folder / "broker").mkdir(parents=True)
    try:
        broker = await asyncio.to_thread(KafkaBroker, folder / "broker")
        try:
            yield KafkaExperiment(_QUICK if setting.quick else _WHOLE, broker.address, folder, setting)
        finally:
            await asyncio.to_thread(broker.remove)
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


_ROWS = "| {who} | {{{side}[nothing_per_s]:,.0f}} | {{{side}[batch_per_s]:,.0f}} | {{{side}[batch_work_us]:.0f}} | {{{side}[beside_slow_p50_ms]:.1f}} | {{{side}[beside_slow_p99_ms]:.1f}} |"  # noqa: E501

jobs_kafka = Claim(
    name="jobs-kafka",
    title="Jobs from Kafka: a slow one holds up nobody",
    situation=(
        "Jobs as records of a topic with 4 partitions, on a real broker. What people write first: a consumer for each "
        "partition (confluent-kafka, a thread each) that runs up to 500 records in order and then commits."
    ),
    task=(
        f"10,000 jobs a second end to end ({_BATCH} at once) on two cores, broker, enqueuer and worker together, "
        "each job's status in a database (SQLite, on the disk); and whoever stands behind a job that takes a second "
        "does not wait for it."
    ),
    action=(
        f"256 callers enqueue one by one, then {_BATCH} at once, acknowledged by the broker, at most {_WINDOW:,} jobs "
        f"ahead of what ran, until each ran (ours: until each end is written, too). Then {_RATE:.0f} jobs/s on "
        "schedule, of which one in 500 takes a second: from when it was to be enqueued until it ran, over all."
    ),
    result=(
        f"{{ours[batch_per_s]:,.0f}} jobs/s enqueued {_BATCH} at once, {{ours[nothing_per_s]:,.0f}} one by one (plain "
        "consumers, which keep no books: {baseline[batch_per_s]:,.0f} and {baseline[nothing_per_s]:,.0f}); beside slow "
        "jobs P99 {ours[beside_slow_p99_ms]:.0f} ms, theirs {baseline[beside_slow_p99_ms]:.0f}."
    ),
    table="\n".join(
        [
            f"| who | one by one, jobs/s | {_BATCH} at once, jobs/s | worker's CPU, us a job | beside slow ones: P50, ms | P99, ms |",  # noqa: E501
            "| --- | ---: | ---: | ---: | ---: | ---: |",
            _ROWS.format(who="ours", side="ours"),
            _ROWS.format(who="plain consumers", side="baseline"),
        ]
    ),
    experiment=_on_a_broker,
    ratios={"beside_slow": Ratio("beside_slow_p99_ms", "beside_slow_p99_ms")},
    thresholds=(
        Threshold("ours.batch_per_s", at_least=10_000),
        Threshold("ratio.beside_slow", at_most=0.5),
    ),
)
