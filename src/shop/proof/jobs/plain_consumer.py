"""What people write first: a consumer for each partition that runs a batch of records in order, then commits.

It keeps nothing about a job: no status, no retry, no time-out. And what stands behind a slow job waits for it.
"""

from __future__ import annotations

import asyncio
import os
import struct
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from shop.proof.jobs.kafka_jobs import BROKER, PARTITIONS, PREFIX
from shop.proof.jobs.our_jobs import SLOW_S, is_slow
from shop.proof.jobs.processes import python
from shop.proof.jobs.systems import JobName
from shop.proof.jobs.tally import tally

__all__ = ["OnTopic", "consume", "make_topic", "putter"]

_BATCH = 500
_NAP_S = 0.001
_ANSWER_S = 30.0
_record = struct.Struct("<Q")


class OnTopic:
    """A topic of its own."""

    name = "plain"

    def __init__(self, broker: str, topic: str) -> None:
        self.environment: Mapping[str, str] = {BROKER: broker, PREFIX: topic}

    def command(self, job: JobName) -> Sequence[str]:
        return python("consume", job)

    async def left(self) -> int:
        """What ran is done: it keeps no books."""
        return 0


async def make_topic(broker: str, topic: str) -> OnTopic:
    """An empty one."""
    admin = AdminClient({"bootstrap.servers": broker})
    made = admin.create_topics([NewTopic(topic, PARTITIONS, 1)])[topic]
    await asyncio.to_thread(made.result, _ANSWER_S)
    return OnTopic(broker, topic)


def consume(*, uneven: bool) -> None:
    """A thread and a consumer for each partition, until killed."""
    threads = [threading.Thread(target=_consume, args=(uneven, partition)) for partition in range(PARTITIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _consume(uneven: bool, partition: int) -> None:
    consumer = Consumer({
        "bootstrap.servers": os.environ[BROKER],
        "group.id": os.environ[PREFIX],
        "enable.auto.commit": False,
        "fetch.wait.max.ms": 10,
    })  # fmt: skip
    consumer.assign([TopicPartition(os.environ[PREFIX], partition, 0)])
    ran = tally()
    while True:
        records = consumer.consume(_BATCH, 0.01)
        for record in records:
            (number,) = _record.unpack(record.value() or b"")
            ran.note(number)
            if uneven and is_slow(number):
                time.sleep(SLOW_S)
        if records:
            consumer.commit(asynchronous=False)


@asynccontextmanager
async def putter() -> AsyncGenerator[Callable[[str, range], Awaitable[None]]]:
    """Enqueues some at once: acknowledged by the broker when it returns."""
    loop = asyncio.get_running_loop()
    producer = Producer({"bootstrap.servers": os.environ[BROKER], "enable.idempotence": True, "linger.ms": 1})
    topic = os.environ[PREFIX]

    async def poll() -> None:
        while True:
            producer.poll(0)
            await asyncio.sleep(_NAP_S)

    async def put(_: str, numbers: range) -> None:
        written = [_produce(loop, producer, topic, number) for number in numbers]
        for one in written:
            await one

    polling = asyncio.create_task(poll())
    try:
        yield put
    finally:
        polling.cancel()
        await asyncio.gather(polling, return_exceptions=True)
        await asyncio.to_thread(producer.flush, _ANSWER_S)


def _produce(loop: asyncio.AbstractEventLoop, producer: Producer, topic: str, number: int) -> asyncio.Future[None]:
    future: asyncio.Future[None] = loop.create_future()

    def delivered(error: KafkaError | None, _: Message) -> None:
        """Called by `poll`, on the loop."""
        if not future.done():
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(RuntimeError(str(error)))

    producer.produce(topic, _record.pack(number), partition=number % PARTITIONS, on_delivery=delivered)
    return future
