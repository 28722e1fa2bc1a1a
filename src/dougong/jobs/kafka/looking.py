"""Jobs that wait in the log, for people and tools to look at: read there, without being a member of the group."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from dougong.errors import Unavailable
from dougong.jobs.kafka.assignment import Part
from dougong.jobs.kafka.offsets import read_map
from dougong.jobs.kafka.records import Spot, decode, id_of
from dougong.jobs.kafka.settings import KafkaQueueSettings, client_log
from dougong.jobs.kafka.waiting import Depth, Waiting

__all__ = ["Looking"]

R = TypeVar("R")

_COORDINATOR_MOVES = {
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
}
"""Who keeps the group's commits is being found: at a broker's first start, and whenever one fails. It passes."""
_AGAIN_S = 0.1


class Looking:
    """One reader, made when first needed; it looks at one thing at a time, in a thread."""

    def __init__(self, servers: str, settings: KafkaQueueSettings) -> None:
        self._settings = settings
        self._servers = servers
        self._consumer: Consumer | None = None
        self._one = asyncio.Lock()

    async def close(self) -> None:
        async with self._one:
            consumer, self._consumer = self._consumer, None
            if consumer is not None:
                await asyncio.to_thread(consumer.close)

    async def depths(self, parts: Collection[Part]) -> dict[Part, Depth]:
        """Of these partitions. `Unavailable` when the broker does not answer."""
        return await self._look(lambda consumer: self._depths(consumer, parts)) if parts else {}

    async def at(self, spots: Sequence[tuple[Part, Spot]]) -> list[Waiting]:
        """What is in these places, if it waits."""

        def look(consumer: Consumer) -> list[Waiting]:
            depths = self._depths(consumer, {part for part, _ in spots})
            found: list[Waiting] = []
            for part, spot in spots:
                if depths[part].waits(spot.offset):
                    record = self._records(consumer, part, spot.lane, spot.offset, spot.offset + 1, depths[part])
                    found += [waiting for waiting in record if waiting.id == id_of(*spot)]
            return found

        return await self._look(look) if spots else []

    async def heads(self, lanes: Mapping[Part, int], count: int) -> dict[Part, tuple[Depth, list[Waiting]]]:
        """Of each partition how deep it is, and the jobs of the first so many records."""

        def look(consumer: Consumer) -> dict[Part, tuple[Depth, list[Waiting]]]:
            found: dict[Part, tuple[Depth, list[Waiting]]] = {}
            for part, depth in self._depths(consumer, lanes.keys()).items():
                stop = min(depth.end, depth.low + count)
                found[part] = depth, self._records(consumer, part, lanes[part], depth.low, stop, depth)
            return found

        return await self._look(look) if lanes else {}

    async def tails(self, lanes: Mapping[Part, int], below: Mapping[Part, int], count: int) -> list[Waiting]:
        """Jobs of the last so many records of each partition, before the given offsets."""

        def look(consumer: Consumer) -> list[Waiting]:
            found: list[Waiting] = []
            for part, depth in self._depths(consumer, lanes.keys()).items():
                stop = min(depth.end, below.get(part, depth.end))
                found += self._records(consumer, part, lanes[part], max(depth.low, stop - count), stop, depth)
            return found

        return await self._look(look) if lanes else []

    async def _look(self, look: Callable[[Consumer], R]) -> R:
        async with self._one:
            until = time.monotonic() + self._settings.answer_s
            while True:
                try:
                    return await asyncio.to_thread(lambda: look(self._open()))
                except KafkaException as error:
                    if error.args[0].code() not in _COORDINATOR_MOVES or time.monotonic() >= until:
                        raise Unavailable(f"Kafka: {error.args[0].str()}", code="log_unavailable") from None
                await asyncio.sleep(_AGAIN_S)

    def _open(self) -> Consumer:
        if self._consumer is None:
            self._consumer = Consumer({
                "logger": client_log,
                **self._settings.options,
                "bootstrap.servers": self._servers,
                "group.id": self._settings.group,  # whose commits we ask for; who only assigns is no member
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 10,
            })  # fmt: skip
        return self._consumer

    def _depths(self, consumer: Consumer, parts: Collection[Part]) -> dict[Part, Depth]:
        depths: dict[Part, Depth] = {}
        wanted = [TopicPartition(self._settings.topic(part.queue), part.partition) for part in parts]
        committed = consumer.committed(wanted, timeout=self._settings.answer_s)
        for part, at in zip(parts, committed, strict=True):
            if at.error is not None:
                raise KafkaException(at.error)
            first, end = consumer.get_watermark_offsets(at, timeout=self._settings.answer_s)
            try:
                finished = read_map(at.metadata or "", at.offset, end) if at.offset >= 0 else frozenset[int]()
            except ValueError:
                finished = frozenset()  # the group refuses it too, and says so
            low = max(at.offset, first)
            depths[part] = Depth(low, max(end, low), frozenset(each for each in finished if each >= low))
        return depths

    def _records(self, consumer: Consumer, part: Part, lane: int, start: int, stop: int, depth: Depth) -> list[Waiting]:
        """Jobs of waiting records in [start, stop), in order."""
        found: list[Waiting] = []
        if start >= stop:
            return found
        consumer.assign([TopicPartition(self._settings.topic(part.queue), part.partition, start)])
        until = time.monotonic() + self._settings.answer_s
        try:
            while time.monotonic() < until:
                for message in consumer.consume(max(min(stop - start, 1000), 1), 0.1):
                    error, offset = message.error(), message.offset()
                    if error is not None:
                        if error.code() == KafkaError._PARTITION_EOF:
                            return found
                        raise KafkaException(error)
                    if offset is None or offset >= stop:
                        return found
                    if depth.waits(offset):
                        try:
                            jobs = decode(message.value())
                        except ValueError:
                            jobs = []
                        found += [Waiting(id_of(lane, offset, n), part.queue, job) for n, job in enumerate(jobs)]
                    if offset == stop - 1:
                        return found
        finally:
            consumer.unassign()
        raise Unavailable(f"Kafka gave no records of {part} in {self._settings.answer_s} s", code="log_unavailable")
