"""Into the log: `send` gives a future, a thread serves what the broker answered, many answers at a time.

Idempotent and acknowledged by all replicas: what a future resolves to is written, once, at that partition and offset.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from dougong.errors import Error, Overloaded, Unavailable
from dougong.jobs._protocol import NewJob
from dougong.jobs.kafka.records import JOBS_MAX, RECORD_BYTES_MAX, LogJob, encode, log_job, size_of
from dougong.jobs.kafka.settings import client_log
from dougong.telemetry import get_logger

__all__ = ["Outlet", "Written"]

_POLL_S = 0.1
_log = get_logger("dougong.jobs")


class Written(NamedTuple):
    """Where jobs are: the first of them; the others follow it."""

    partition: int
    offset: int
    number: int


class _Gathered:
    """What will be one record."""

    def __init__(self) -> None:
        self.jobs: list[LogJob] = []
        self.size = 0
        self.waiting: list[tuple[int, asyncio.Future[Written]]] = []


class Outlet:
    """One producer. Belongs to the loop it was made on.

    Puts that are made in the same turn of the loop go into one record: each of them is whole in it.
    """

    def __init__(self, options: Mapping[str, str | int | float | bool], put_s: float) -> None:
        config: dict[str, object] = {
            "logger": client_log,
            **options,
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": 1,
            "message.timeout.ms": round(put_s * 1000),
            "compression.type": "lz4",
            "sticky.partitioning.linger.ms": 0,  # small queues go to all partitions too
        }
        self._config = config
        self._producer = Producer(config)
        self._broken = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._gathered: dict[str, _Gathered] = {}
        self._answers: list[tuple[_Gathered, tuple[int, int] | Error]] = []
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="kafka outlet", daemon=True)
        self._thread.start()

    def send(self, topic: str, jobs: Sequence[NewJob], now_us: int) -> asyncio.Future[Written]:
        """Resolves once they are written. `Overloaded` when too much is on its way, `Unavailable` when it failed.

        They fit into a record (`fits`).
        """
        future: asyncio.Future[Written] = self._loop.create_future()
        size = sum(map(size_of, jobs))
        gathered = self._gathered.get(topic)
        if gathered is not None and (
            gathered.size + size > RECORD_BYTES_MAX or len(gathered.jobs) + len(jobs) > JOBS_MAX
        ):
            self._produce(topic, gathered)
            gathered = None
        if gathered is None:
            if not self._gathered:
                self._loop.call_soon(self._produce_all)
            gathered = self._gathered[topic] = _Gathered()
        gathered.waiting.append((len(gathered.jobs), future))
        gathered.size += size
        gathered.jobs += [log_job(job, now_us) for job in jobs]
        return future

    async def close(self) -> None:
        """What was sent is answered before, or has failed."""
        self._produce_all()
        self._closing.set()
        await asyncio.to_thread(self._thread.join)

    def _produce_all(self) -> None:
        gathered, self._gathered = self._gathered, {}
        for topic, each in gathered.items():
            self._produce(topic, each)

    def _produce(self, topic: str, gathered: _Gathered) -> None:
        def answered(error: KafkaError | None, message: Message) -> None:  # in the thread
            partition, offset = message.partition(), message.offset()
            if error is None and partition is not None and offset is not None:
                self._answers.append((gathered, (partition, offset)))
            else:
                self._note(error)
                self._answers.append((gathered, _not_written(topic, error)))

        try:
            self._producer.produce(topic, encode(gathered.jobs), on_delivery=answered)
        except BufferError:
            full = Overloaded(
                f"too many jobs are on their way to topic {topic}; put again later", code="log_overloaded", topic=topic
            )
            _resolve([(gathered, full)])
        except KafkaException as error:
            self._note(error.args[0])
            _resolve([(gathered, _not_written(topic, error.args[0]))])

    def _note(self, error: KafkaError | None) -> None:
        """A producer that cannot say any more what was written, and in which order, writes nothing: take a new one."""
        if error is not None and error.fatal():
            self._broken.set()

    def _serve(self) -> None:
        while not self._closing.is_set():
            try:
                self._producer.poll(_POLL_S)
            except KafkaException as error:  # what is fatal is raised here, after answers were given
                self._note(error.args[0])
            self._hand_over()
            if self._broken.is_set():
                _log.warning("kafka_producer_replaced")
                broken, self._producer = self._producer, Producer(self._config)
                self._broken.clear()
                self._give_up(broken, 0)
        self._give_up(self._producer, 10)

    def _give_up(self, producer: Producer, wait_s: float) -> None:
        """What it still has after so long fails."""
        for step in (lambda: producer.flush(wait_s), producer.purge, lambda: producer.flush(1)):
            try:
                step()
            except KafkaException as error:
                _log.warning("kafka_producer_ended_badly", reason=str(error))
        self._hand_over()

    def _hand_over(self) -> None:
        if self._answers:
            answers, self._answers = self._answers, []
            try:
                self._loop.call_soon_threadsafe(_resolve, answers)
            except RuntimeError:  # the loop is closed: nobody waits
                pass


def _resolve(answers: list[tuple[_Gathered, tuple[int, int] | Error]]) -> None:
    for gathered, answer in answers:
        for number, future in gathered.waiting:
            if future.done():
                continue  # whoever waited was cancelled
            if isinstance(answer, Error):
                future.set_exception(answer)
            else:
                future.set_result(Written(*answer, number))


def _not_written(topic: str, error: KafkaError | None) -> Unavailable:
    return Unavailable(
        f"jobs for topic {topic} were not written: {error.str() if error is not None else 'no answer'} (they may be "
        f"there when the broker did not answer)",
        code="log_not_written",
        topic=topic,
        reason=error.name() if error is not None else "",
    )
