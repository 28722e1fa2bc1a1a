"""The `Queue` of a log and a database: what waits for nothing but a worker waits in the log, all else in tables."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from dougong.clock import Clock
from dougong.errors import Unavailable
from dougong.jobs._protocol import (
    Claimed,
    Ended,
    Enqueued,
    Filter,
    NewJob,
    Progress,
    QueueCounts,
    QueueSettings,
    Stored,
    Turn,
    Want,
    WorkerInfo,
)
from dougong.jobs.kafka.assignment import Held, Part
from dougong.jobs.kafka.claiming import claim
from dougong.jobs.kafka.intake import Intake
from dougong.jobs.kafka.lanes import Lanes
from dougong.jobs.kafka.looking import Looking
from dougong.jobs.kafka.outlet import Outlet
from dougong.jobs.kafka.records import FIRST_ID, fits, id_of, spot_of
from dougong.jobs.kafka.seeing import Seeing
from dougong.jobs.kafka.settings import KafkaQueueSettings
from dougong.jobs.sql import SqlQueue, SqlQueueSettings
from dougong.jobs.sql.checking import check_jobs, check_queue
from dougong.jobs.sql.reaping import Stays
from dougong.jobs.sql.step import Step
from dougong.store import Store, Tx
from dougong.telemetry import get_logger

__all__ = ["KafkaQueue"]

_log = get_logger("dougong.jobs")


class KafkaQueue:
    """`Queue` on `servers` (`host:port,...`) and a store. Belongs to the loop it was made on.

    `queues`: whose topics `start` makes, if the broker answers in time; those of others are made when first needed.
    """

    def __init__(
        self,
        store: Store,
        servers: str,
        clock: Clock,
        settings: KafkaQueueSettings | None = None,
        *,
        queues: Iterable[str] = (),
        rows: SqlQueueSettings | None = None,
        reopen: Callable[[], Awaitable[Store]] | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._settings = settings if settings is not None else KafkaQueueSettings()
        self._rows = SqlQueue(store, clock, rows, reopen=reopen, id_ranges=(0, FIRST_ID), stays=self._stays)
        self._lanes = Lanes(store, servers, self._settings)
        self._looking = Looking(servers, self._settings)
        self._seeing = Seeing(store, self._rows, self._lanes, self._looking)
        self._servers = servers
        self._queues = tuple(sorted(queues))
        self._outlet: Outlet | None = None
        self._intake: Intake | None = None
        self._news = asyncio.Event()
        self._written: dict[Part, int] = {}
        self._unread: set[str] = set()
        self._purge_at_s = 0.0
        self._turns = 0

    async def start(self) -> None:
        await self._rows.start()
        await self._lanes.start()
        loop = asyncio.get_running_loop()
        options = {**self._settings.options, "bootstrap.servers": self._servers}
        self._outlet = Outlet(options, self._settings.put_s)

        def news() -> None:
            try:
                loop.call_soon_threadsafe(self._news.set)
            except RuntimeError:  # the loop is closed
                pass

        def lane_of(part: Part) -> int | None:
            if self._lanes.lane_of(part) is None:  # partitions were added
                looked = asyncio.run_coroutine_threadsafe(self._lanes.look(part.queue), loop)
                try:
                    looked.result(self._settings.answer_s)
                except (TimeoutError, Unavailable):
                    looked.cancel()
            return self._lanes.lane_of(part)

        self._intake = Intake(self._servers, self._settings, lane_of, news)
        await self._make_topics()

    async def close(self) -> None:
        if self._intake is not None:
            await self._intake.close()
        if self._outlet is not None:
            await self._outlet.close()
        await self._looking.close()
        await self._rows.close()

    # who enqueues

    async def put(self, jobs: Sequence[NewJob], tx: Tx | None = None) -> list[Enqueued]:
        """See `Queue.put`. One record of the log, when nothing about the jobs asks for a table (`fits`); else rows."""
        if tx is not None or not fits(jobs):
            return await self._rows.put(jobs, tx)
        check_jobs(jobs)
        assert self._outlet is not None, "start() comes first"
        queue = jobs[0].queue
        await self._lanes.know(queue)
        written = await self._outlet.send(self._settings.topic(queue), jobs, self._clock.now_us())
        part = Part(queue, written.partition)
        if self._lanes.lane_of(part) is None:
            await self._lanes.look(queue)
        lane = self._lanes.lane_of(part)
        assert lane is not None, part
        self._written[part] = max(self._written.get(part, 0), written.offset)
        first = id_of(lane, written.offset, written.number)
        return [Enqueued(id_) for id_ in range(first, first + len(jobs))]

    async def put_group(self, jobs: Sequence[NewJob], then: NewJob, tx: Tx | None = None) -> tuple[int, list[Enqueued]]:
        return await self._rows.put_group(jobs, then, tx)

    # who works

    async def attach(self, worker: WorkerInfo, ttl_s: float) -> int:
        """See `Queue.attach`. Waits a while for the group to give it partitions; the term begins after that."""
        for queue in worker.queues:
            check_queue(queue)
        self._unread.update(worker.queues)
        await self._read_on()
        if self._intake is not None and not self._unread:
            await self._intake.wait_joined(self._settings.join_s)
        return await self._rows.attach(worker, ttl_s)

    async def renew(self, term: int, ttl_s: float) -> bool:
        return await self._rows.renew(term, ttl_s)

    async def detach(self, term: int) -> None:
        await self._rows.detach(term)

    async def held(self, term: int) -> Sequence[Claimed]:
        """See `SqlQueue.held`: what was taken from the log has rows."""
        return await self._rows.held(term)

    async def turn(self, term: int, ended: Sequence[Ended], wants: Sequence[Want]) -> Turn:
        """See `Queue.turn`. Where both have jobs, half come from the log."""
        assert self._intake is not None, "start() comes first"
        for want in wants:
            check_queue(want.queue)
        intake = self._intake
        await self._read_own(intake, wants)
        self._news.clear()
        self._turns += 1
        taken = {want.queue: intake.take(want.queue, want.count) for want in wants if want.count > 0}
        of_rows: list[Want] = []
        for want in wants:
            half = (want.count + self._turns % 2) // 2
            of_rows.append(Want(want.queue, want.count - min(half, len(taken.get(want.queue, ())))))
        settled: list[Held] = []

        async def more(step: Step, settings: Mapping[str, QueueSettings], claimed: Sequence[Claimed]) -> list[Claimed]:
            settled.clear()  # a unit may run again
            found: list[Claimed] = []
            for want in wants:
                held = intake.mine(taken.get(want.queue, ()))
                if held and not (want.queue in settings and settings[want.queue].paused):
                    left = want.count - sum(one.queue == want.queue for one in claimed)
                    some, done = await claim(step, term, want.queue, held, left)
                    found += some
                    settled.extend(done)
            return found

        try:
            turn = await self._rows.turn_with(term, ended, of_rows, more)
        except BaseException:
            # Had it been written nevertheless, the row says so when they are taken again.
            intake.settle([], [held for some in taken.values() for held in some])
            raise
        over = {held.id for held in settled}
        intake.settle(settled, [held for some in taken.values() for held in some if held.id not in over])
        if any(intake.holds(want.queue) for want in wants if want.count > 0) and turn.claimed:
            self._news.set()
        return turn

    async def report(self, term: int, progress: Sequence[Progress]) -> None:
        await self._rows.report(term, progress)

    async def news(self, timeout_s: float) -> None:
        rows = asyncio.create_task(self._rows.news(timeout_s))
        log = asyncio.create_task(self._news.wait())
        try:
            await asyncio.wait({rows, log}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            log.cancel()
            rows.cancel()
            await asyncio.gather(log, rows, return_exceptions=True)

    async def reap(self) -> int:
        """See `Queue.reap`. Also deletes from the log what nobody needs any more."""
        await self._read_on()
        now_s = self._clock.monotonic()
        if self._intake is not None and now_s >= self._purge_at_s:
            self._purge_at_s = now_s + self._settings.purge_every_s
            await self._lanes.purge(self._intake.low())
        return await self._rows.reap()

    # who looks and decides

    async def find(self, ids: Sequence[int]) -> list[Stored | None]:
        return await self._seeing.find(ids)

    async def page(self, which: Filter, *, after: int | None = None, limit: int = 50) -> list[Stored]:
        """See `Queue.page`. Of each partition of the log the last 1,000 records before `after` are looked at."""
        return await self._seeing.page(which, after, limit)

    async def counts(self) -> list[QueueCounts]:
        """See `Queue.counts`. Where more than 1,000 records wait in a partition, an estimate from the first ones."""
        return await self._seeing.counts()

    async def unfinished(self, ids: Sequence[int], tx: Tx | None = None) -> set[int]:
        """See `Queue.unfinished`. With `tx` the log cannot be asked: a job that was once in it and has no row counts as
        waiting, even if it was forgotten.
        """
        return await self._seeing.unfinished(ids, tx)

    async def cancel(self, ids: Sequence[int], tx: Tx | None = None) -> set[int]:
        """See `Queue.cancel`. A row that says so waits for the record to be read."""
        return await self._seeing.cancel(ids, tx)

    async def replay(self, ids: Sequence[int]) -> set[int]:
        return await self._rows.replay(ids)

    async def forget(self, ids: Sequence[int]) -> set[int]:
        """See `Queue.forget`. Not what the log has still: for a second or so, or while others of its record wait."""
        stays = await self._seeing.stays() if any(spot_of(id_) is not None for id_ in ids) else None
        return await self._rows.forget([id_ for id_ in ids if stays is None or not stays(id_)])

    async def settings(self) -> Mapping[str, QueueSettings]:
        return await self._rows.settings()

    async def configure(self, queue: str, settings: QueueSettings) -> None:
        await self._rows.configure(queue, settings)

    # inside

    async def _make_topics(self) -> None:
        """So that no enqueue waits for it: that takes a broker a second or so. Without one, tables go on."""
        try:
            async with asyncio.timeout(self._settings.join_s):
                for queue in self._queues:
                    await self._lanes.know(queue)
        except (TimeoutError, Unavailable) as error:
            reason = str(error) or f"no answer within {self._settings.join_s:g} s"
            _log.warning("kafka_topics_not_made", queues=self._queues, reason=reason)

    async def _read_on(self) -> None:
        """Read the topics of queues that workers want, as soon as the broker lets us."""
        for queue in sorted(self._unread):
            try:
                await self._lanes.know(queue)
            except Unavailable as error:
                _log.warning("kafka_topic_not_read", queue=queue, reason=error.message)
                return
            self._unread.discard(queue)
            assert self._intake is not None, "start() comes first"
            self._intake.read([queue])

    async def _read_own(self, intake: Intake, wants: Sequence[Want]) -> None:
        """What this process put and reads itself is there for its next turn, as it would be with a table."""
        short = {want.queue: want.count for want in wants if want.count > intake.holds(want.queue)}
        own = {part: offset for part, offset in self._written.items() if part.queue in short}
        if not own:
            return
        loop = asyncio.get_running_loop()
        until = loop.time() + self._settings.own_s
        while not intake.has_read(own) and loop.time() < until:
            self._news.clear()
            try:
                async with asyncio.timeout(0.02):
                    await self._news.wait()
            except TimeoutError:
                pass
            if all(intake.holds(queue) >= count for queue, count in short.items()):
                return
        for part, offset in own.items():
            if self._written.get(part) == offset:
                del self._written[part]

    async def _stays(self) -> Stays:
        return await self._seeing.stays()
