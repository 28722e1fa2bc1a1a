"""Out of the log: a thread owns the consumer, so that neither a busy loop nor a full worker stops it from polling.

It reads while there is room, pauses partitions when there is none, and goes on polling: the group hears of it all the
time. What it learns it writes into the `Assignment`, under a lock that nobody holds for long.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, KafkaException, Message, TopicPartition

from dougong.clock import BootClock, Clock
from dougong.jobs.kafka.assignment import Assignment, Held, Part
from dougong.jobs.kafka.offsets import read_map
from dougong.jobs.kafka.records import LogJob, decode
from dougong.jobs.kafka.settings import KafkaQueueSettings, client_log
from dougong.telemetry import get_logger

__all__ = ["Intake"]

_log = get_logger("dougong.jobs")
_POLL_S = 0.05
_AT_ONCE = 500
_CROWDED_S = 1.0
_OWED_S = 1.0


class Intake:
    """One member of the group. `lane_of` numbers partitions; `news` is called, in the thread, when jobs have come."""

    def __init__(
        self,
        servers: str,
        settings: KafkaQueueSettings,
        lane_of: Callable[[Part], int | None],
        news: Callable[[], None],
        clock: Clock | None = None,
    ) -> None:
        self._settings = settings
        self._clock: Clock = clock if clock is not None else BootClock()
        self._lane_of = lane_of
        self._news = news
        self._assignment = Assignment(settings.held_max, settings.session_s)
        self._lock = threading.Lock()
        self._topics: dict[str, str] = {}
        self._wanted: tuple[str, ...] = ()
        self._subscribed: tuple[str, ...] = ()
        self._paused: set[Part] = set()
        self._owed: dict[Part, TopicPartition] = {}
        """Ours, and not read: nobody could tell yet where to begin."""
        self._owed_at = 0.0
        self._roomy = threading.Event()
        self._crowded_at: float | None = None
        self._jobs_per_record = 1.0  # lately
        self._closing = threading.Event()
        self._joined = threading.Event()
        self._options = {
            "logger": client_log,
            **settings.options,
            "bootstrap.servers": servers,
            "group.id": settings.group,
            "partition.assignment.strategy": "cooperative-sticky",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            "session.timeout.ms": round(settings.session_s * 1000),
            # A rebalance waits for the beats of all, and who leaves waits for it: one connection carries the join and,
            # behind it, the word that we go, for which the client has 5 s. After that it goes without, and is given
            # partitions until its session is over. Kafka's own 3 s are too slow for two rounds.
            "heartbeat.interval.ms": round(min(1.0, settings.session_s / 4) * 1000),
            "fetch.wait.max.ms": 100,
            "queued.max.messages.kbytes": 16_384,
            "on_commit": self._on_commit,
        }
        if settings.instance:
            self._options["group.instance.id"] = settings.instance
        self._thread: threading.Thread | None = None

    async def wait_joined(self, timeout_s: float) -> bool:
        """Until the group has given us something, at most so long."""
        return await asyncio.to_thread(self._joined.wait, timeout_s)

    def read(self, queues: Iterable[str]) -> None:
        """Read these queues' topics too, from now on."""
        for queue in queues:
            self._topics[self._settings.topic(queue)] = queue
        self._wanted = tuple(sorted(self._topics))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="kafka intake", daemon=True)
            self._thread.start()

    async def close(self) -> None:
        """Commit what is settled and leave the group."""
        self._closing.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    # in the thread

    def _run(self) -> None:
        consumer = Consumer(self._options)
        commit_at = time.monotonic() + self._settings.commit_every_s
        try:
            while not self._closing.is_set():
                try:
                    self._follow(consumer)
                    self._begin_owed(consumer)
                    if self._is_crowded():
                        self._roomy.wait(_POLL_S)
                    else:
                        asked_s = self._clock.monotonic()
                        first = consumer.poll(_POLL_S)
                        with self._lock:
                            self._assignment.polled(asked_s)
                        if first is not None:
                            self._take_in([first, *consumer.consume(self._room() - 1, 0)])
                    self._pause_or_resume(consumer)
                    if time.monotonic() >= commit_at:
                        commit_at = time.monotonic() + self._settings.commit_every_s
                        self._commit(consumer, wait=False)
                except KafkaException as error:
                    if error.args[0].fatal():
                        # Another process has our instance name, say: it is its turn.
                        _log.error("kafka_intake_ended", reason=str(error))
                        with self._lock:
                            self._assignment.lose(list(self._assignment.parts))
                        break
                    # Whatever it is, the client goes on trying by itself; so do we.
                    _log.warning("kafka_intake_failed", reason=str(error))
                    self._closing.wait(0.5)
                except Exception:  # noqa: BLE001 (without this thread nobody here would read the log again)
                    _log.exception("kafka_intake_failed")
                    self._closing.wait(0.5)
        finally:
            self._commit(consumer, wait=True)
            self._leave(consumer)

    def _leave(self, consumer: Consumer) -> None:
        """A client that is closed while it has no partitions (it joins, or others have them all) says nothing: the
        group would wait for it, or give it partitions, until its session is over. One that unsubscribes first says so.
        Who has an instance name is to keep its place, and never says.
        """
        if not self._settings.instance:
            consumer.unsubscribe()
        consumer.close()

    def _is_crowded(self) -> bool:
        """Whether to wait for room rather than poll, for a moment: pausing throws away what was fetched ahead."""
        self._roomy.clear()
        if not self._is_full():
            self._crowded_at = None
            return False
        now = time.monotonic()
        if self._crowded_at is None:
            self._crowded_at = now
        return now < self._crowded_at + _CROWDED_S

    def _running(self) -> list[Part]:
        """What is ours and not paused; under the lock."""
        return [part for part in self._assignment.parts if part not in self._paused]

    def _is_full(self) -> bool:
        """Whether no queue that is read has room."""
        with self._lock:
            running = self._running()
            return bool(running) and not self._assignment.missing(running)

    def _room(self) -> int:
        """About how many more records to read: as many as should have the jobs that are missing."""
        with self._lock:
            missing = self._assignment.missing(self._running())
        return max(1, min(_AT_ONCE, int(missing / self._jobs_per_record)))

    def _follow(self, consumer: Consumer) -> None:
        if self._wanted != self._subscribed:
            wanted = self._wanted
            consumer.subscribe(
                list(wanted), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
            )
            self._subscribed = wanted

    def _take_in(self, messages: Sequence[Message]) -> None:
        read: list[tuple[Part, int, list[LogJob]]] = []
        for message in messages:
            error = message.error()
            topic, partition, offset = message.topic(), message.partition(), message.offset()
            if error is not None or topic is None or partition is None or offset is None:
                _log.warning("kafka_says", reason=str(error), topic=topic)
                continue
            jobs: list[LogJob] = []
            try:
                jobs = decode(message.value())
            except ValueError as why:
                _log.error("job_record_unreadable", topic=topic, partition=partition, offset=offset, reason=str(why))
            read.append((Part(self._topics[topic], partition), offset, jobs))
        with self._lock:
            for part, at, found in read:
                self._assignment.read(part, at, found)
        if read:
            self._jobs_per_record += (sum(len(found) for _, _, found in read) / len(read) - self._jobs_per_record) / 4
            self._news()

    def _pause_or_resume(self, consumer: Consumer) -> None:
        early = self._crowded_at is None or time.monotonic() < self._crowded_at + _CROWDED_S
        patient = early and self._is_full()  # one queue of several that is full is paused at once: the others go on
        with self._lock:
            pause, resume = self._assignment.stopped(running=self._running(), patient=patient)
        if pause:
            consumer.pause([self._tp(part) for part in pause])
            self._paused.update(pause)
        if resume:
            consumer.resume([self._tp(part) for part in resume])
            self._paused.difference_update(resume)

    def _commit(self, consumer: Consumer, *, wait: bool, parts: Iterable[Part] | None = None) -> None:
        with self._lock:
            commits = self._assignment.commits(parts)
        if not commits:
            return
        offsets = [
            TopicPartition(self._settings.topic(each.part.queue), each.part.partition, each.offset, each.metadata)
            for each in commits
        ]
        try:
            if wait:
                consumer.commit(offsets=offsets, asynchronous=False)
            else:
                consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            # Not lost: rows speak for what is settled, and the next commit says it again.
            _log.warning("kafka_commit_failed", reason=str(error))
            with self._lock:
                self._assignment.not_committed(each.part for each in commits)

    def _on_commit(self, error: KafkaError | None, offsets: list[TopicPartition]) -> None:
        """What became of a commit that nobody waited for."""
        if error is not None:
            _log.warning("kafka_commit_failed", reason=error.str())
            with self._lock:
                self._assignment.not_committed(Part(self._topics[at.topic], at.partition) for at in offsets)

    def _on_assign(self, consumer: Consumer, gained: list[TopicPartition]) -> None:
        """Read on from where the last owner stood. Where that cannot be told now (a rebalance often comes with a broker
        that fails), the partition is ours all the same, and nobody else's: it is asked again until it can.
        """
        starts = self._begin(consumer, gained)
        begun = {(at.topic, at.partition) for at in starts}
        later = [TopicPartition(at.topic, at.partition, OFFSET_END) for at in gained]
        consumer.incremental_assign([*starts, *(at for at in later if (at.topic, at.partition) not in begun)])
        if starts:
            self._joined.set()
        self._news()

    def _begin(self, consumer: Consumer, wanted: Sequence[TopicPartition]) -> list[TopicPartition]:
        """Where to read these from, passing over what the map of each says; the others are owed."""
        starts: list[TopicPartition] = []
        for at in wanted:
            part = Part(self._topics[at.topic], at.partition)
            self._owed[part] = TopicPartition(at.topic, at.partition)
        self._owed_at = time.monotonic() + _OWED_S
        try:
            for at in consumer.committed(list(wanted), timeout=self._settings.answer_s) if wanted else ():
                part = Part(self._topics[at.topic], at.partition)
                if at.error is not None:
                    raise KafkaException(at.error)
                lane = self._lane_of(part)
                if lane is None:
                    _log.warning("kafka_partition_unknown", topic=at.topic, partition=at.partition)
                    continue
                start, finished = max(at.offset, 0), frozenset[int]()
                if at.offset >= 0 and at.metadata:
                    finished = self._read_map(consumer, at)
                with self._lock:
                    self._assignment.gain(part, lane, start, finished)
                self._paused.discard(part)
                del self._owed[part]
                starts.append(TopicPartition(at.topic, at.partition, at.offset if at.offset >= 0 else OFFSET_BEGINNING))
        except Exception as error:  # noqa: BLE001 (the broker, or the database that numbers partitions)
            _log.warning("kafka_partitions_not_begun", partitions=len(self._owed), reason=str(error))
        return starts

    def _begin_owed(self, consumer: Consumer) -> None:
        if self._owed and time.monotonic() >= self._owed_at:
            starts = self._begin(consumer, list(self._owed.values()))
            if starts:
                consumer.incremental_unassign(starts)
                consumer.incremental_assign(starts)
                self._joined.set()
                self._news()

    def _read_map(self, consumer: Consumer, at: TopicPartition) -> frozenset[int]:
        try:
            _, end = consumer.get_watermark_offsets(at, timeout=self._settings.answer_s)
            return read_map(at.metadata or "", at.offset, end)
        except ValueError as why:
            _log.warning("kafka_map_refused", topic=at.topic, partition=at.partition, reason=str(why))
            return frozenset()

    def _on_revoke(self, consumer: Consumer, revoked: list[TopicPartition]) -> None:
        """Say what is settled, then let go; what is not settled stays in the log for the next owner."""
        parts = [Part(self._topics[each.topic], each.partition) for each in revoked]
        self._commit(consumer, wait=True, parts=parts)
        self._let_go(consumer, revoked, parts)

    def _on_lost(self, consumer: Consumer, lost: list[TopicPartition]) -> None:
        """Another has them already: nothing may be committed."""
        _log.warning("kafka_partitions_lost", partitions=len(lost))
        self._let_go(consumer, lost, [Part(self._topics[each.topic], each.partition) for each in lost])

    def _let_go(self, consumer: Consumer, gone: list[TopicPartition], parts: Sequence[Part]) -> None:
        with self._lock:
            self._assignment.lose(parts)
        # For the client a pause outlasts the assignment: it would not read them when they are ours again.
        stopped = self._paused.intersection(parts)
        if stopped:
            consumer.resume([self._tp(part) for part in sorted(stopped)])
        self._paused -= stopped
        for part in parts:
            self._owed.pop(part, None)
        consumer.incremental_unassign(gone)

    def _tp(self, part: Part) -> TopicPartition:
        return TopicPartition(self._settings.topic(part.queue), part.partition)

    # for the queue, from the loop

    def take(self, queue: str, count: int) -> list[Held]:
        """See `Assignment.take`."""
        with self._lock:
            return self._assignment.take(queue, count)

    def mine(self, jobs: Sequence[Held]) -> list[Held]:
        """See `Assignment.mine`."""
        with self._lock:
            return self._assignment.mine(jobs, self._clock.monotonic())

    def settle(self, settled: Sequence[Held], unused: Sequence[Held]) -> None:
        """Rows speak for the first; the others were not needed."""
        with self._lock:
            self._assignment.settle(settled)
            self._assignment.give_back(unused)
        self._roomy.set()

    def has_read(self, spots: Mapping[Part, int]) -> bool:
        """See `Assignment.has_read`."""
        with self._lock:
            return all(self._assignment.has_read(part, offset) for part, offset in spots.items())

    def holds(self, queue: str) -> int:
        """See `Assignment.holds`."""
        with self._lock:
            return self._assignment.holds(queue)

    def low(self) -> dict[Part, int]:
        """See `Assignment.low`."""
        with self._lock:
            return self._assignment.low()
