"""Topics of queues, and numbers of their partitions: short names by which a job's id says where in the log it is.

A topic that was deleted and made again starts at offset 0; it has another id with the broker, and other numbers here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, TypeVar, cast

from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from dougong.errors import Unavailable
from dougong.jobs.kafka.assignment import Part
from dougong.jobs.kafka.records import LANES_MAX
from dougong.jobs.kafka.settings import KafkaQueueSettings, client_log
from dougong.store import Migration, Store, Tx
from dougong.telemetry import get_logger

__all__ = ["Lanes"]

R = TypeVar("R")
_log = get_logger("dougong.jobs")

_SCHEMA = [
    Migration(
        1,
        "lanes",
        "CREATE TABLE dougong_job_lanes (lane INTEGER NOT NULL PRIMARY KEY, topic VARCHAR(249) NOT NULL, "
        "topic_id VARCHAR(40) NOT NULL, part INTEGER NOT NULL, UNIQUE (topic_id, part))",
    )
]
_TRIES = 50


class Lanes:
    """Of one log. `part_of` and `lane_of` may be asked from any thread."""

    def __init__(self, store: Store, servers: str, settings: KafkaQueueSettings) -> None:
        self._store = store
        self._settings = settings
        options: dict[str, Any] = {"logger": client_log, **settings.options, "bootstrap.servers": servers}
        self._admin = AdminClient(options)
        self._lanes: dict[Part, int] = {}
        self._parts: dict[int, Part] = {}
        self._topic_ids: dict[str, str] = {}
        self._finding = asyncio.Lock()

    async def start(self) -> None:
        await self._store.migrate("dougong.jobs.kafka", _SCHEMA)

    @property
    def parts(self) -> Mapping[Part, int]:
        """All that are known, with their numbers."""
        return self._lanes

    def lane_of(self, part: Part) -> int | None:
        """The number of a partition."""
        return self._lanes.get(part)

    def part_of(self, lane: int) -> Part | None:
        """The partition of a number; None when its topic is gone."""
        return self._parts.get(lane)

    async def know(self, queue: str) -> None:
        """Make sure that its topic is there. `Unavailable` when the broker does not answer."""
        if queue not in self._topic_ids:
            await self.look(queue)

    async def look(self, queue: str) -> None:
        """Look at it again: it may have been made anew, or have more partitions."""
        async with self._finding:
            topic = self._settings.topic(queue)
            topic_id, count = await self._describe(topic)
            numbers = await self._store.write(lambda tx: self._number(tx, topic, topic_id, count))
            for lane, partition in numbers:
                self._lanes[Part(queue, partition)] = lane
                self._parts[lane] = Part(queue, partition)
            self._topic_ids[queue] = topic_id

    async def all_queues(self) -> None:
        """Know what any process of this log ever numbered."""
        rows = await self._store.fetch_all("SELECT DISTINCT topic FROM dougong_job_lanes ORDER BY topic")
        prefix = self._settings.prefix
        for (topic,) in cast("list[tuple[str]]", rows):
            if topic.startswith(prefix):
                await self.know(topic[len(prefix) :])

    async def purge(self, low: Mapping[Part, int]) -> None:
        """Delete what is below: else a log that never expires grows for ever. What fails is tried again later."""
        records = [
            TopicPartition(self._settings.topic(part.queue), part.partition, offset)
            for part, offset in low.items()
            if offset > 0
        ]
        for future in self._admin.delete_records(records).values() if records else ():
            try:
                await self._answer(future)
            except (Unavailable, KafkaException) as error:
                _log.warning("kafka_log_not_purged", reason=str(error))

    async def _describe(self, topic: str) -> tuple[str, int]:
        """Its id and how many partitions it has; created when it is not there."""
        for tried in range(_TRIES):
            future = self._admin.describe_topics(TopicCollection([topic]), request_timeout=self._settings.answer_s)
            try:
                described = await self._answer(future[topic])
            except KafkaException as error:
                if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise _unavailable(error) from None
                if not tried:
                    await self._create(topic)
                await asyncio.sleep(0.02 * (tried + 1))  # brokers hear of it one after the other
            else:
                return str(described.topic_id), len(described.partitions)
        raise Unavailable(f"topic {topic} was created and is still unknown to the broker", code="log_unavailable")

    async def _create(self, topic: str) -> None:
        # Jobs wait as long as they have to: a log that expires would lose them. What is settled is purged.
        wanted = NewTopic(
            topic,
            self._settings.partitions,
            self._settings.replicas,
            config={"retention.ms": "-1", "retention.bytes": "-1"},
        )
        try:
            await self._answer(self._admin.create_topics([wanted])[topic])
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise _unavailable(error) from None

    async def _answer(self, future: Future[R]) -> R:
        try:
            async with asyncio.timeout(self._settings.answer_s + 1):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise Unavailable(
                f"Kafka does not answer within {self._settings.answer_s} s", code="log_unavailable"
            ) from None

    async def _number(self, tx: Tx, topic: str, topic_id: str, count: int) -> list[tuple[int, int]]:
        rows = await tx.fetch_all("SELECT lane, part FROM dougong_job_lanes WHERE topic_id = ?", (topic_id,))
        numbers = cast("list[tuple[int, int]]", rows)
        missing = sorted(set(range(count)) - {part for _, part in numbers})
        if missing:
            row = await tx.fetch_one("SELECT max(lane) FROM dougong_job_lanes")
            first = (cast("int | None", row[0] if row else None) or 0) + 1
            if first + len(missing) > LANES_MAX:
                raise Unavailable(
                    f"{LANES_MAX:,} partitions were numbered in all; delete rows of topics that are gone from "
                    f"dougong_job_lanes",
                    code="too_many_lanes",
                )
            new = [(first + each, part) for each, part in enumerate(missing)]
            await tx.execute_many(
                "INSERT INTO dougong_job_lanes (lane, topic, topic_id, part) VALUES (?, ?, ?, ?)",
                [(lane, topic, topic_id, part) for lane, part in new],
            )
            numbers = [*numbers, *new]
        return numbers


def _unavailable(error: KafkaException) -> Unavailable:
    return Unavailable(f"Kafka: {error.args[0].str()}", code="log_unavailable", reason=error.args[0].name())
