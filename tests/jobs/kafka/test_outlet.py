"""Into the log: written once, or said not to be, whatever brokers answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from confluent_kafka import Consumer, TopicPartition
from tests.jobs.kafka.mock_brokers import (
    INVALID_RECORD,
    NOT_ENOUGH_REPLICAS,
    OUT_OF_ORDER_SEQUENCE_NUMBER,
    MockBrokers,
    mock_brokers,
)

from dougong.errors import Unavailable
from dougong.jobs import NewJob
from dougong.jobs.kafka.outlet import Outlet
from dougong.jobs.kafka.records import JOBS_MAX, LogJob, decode

TOPIC = "jobs"
JOB = NewJob(job="greet", payload=b"{}")


@pytest.fixture
def brokers() -> Iterator[MockBrokers]:
    with mock_brokers() as made:
        yield made


@pytest.fixture
async def outlet(brokers: MockBrokers) -> AsyncIterator[Outlet]:
    made = Outlet({"bootstrap.servers": brokers.servers, "retry.backoff.ms": 1, "retry.backoff.max.ms": 5}, put_s=60)
    yield made
    await made.close()


async def until_written(outlet: Outlet, jobs: list[NewJob]) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                await outlet.send(TOPIC, jobs, 7)
                break
            except Unavailable:
                await asyncio.sleep(0.05)


def records(brokers: MockBrokers) -> list[list[LogJob]]:
    """All that is in the topic."""
    options = {"bootstrap.servers": brokers.servers, "group.id": "reader", "enable.partition.eof": True}
    consumer = Consumer({**options, "auto.offset.reset": "earliest"})
    partitions = consumer.list_topics(TOPIC, timeout=60).topics[TOPIC].partitions
    consumer.assign([TopicPartition(TOPIC, number, 0) for number in partitions])
    found: list[list[LogJob]] = []
    ends = 0
    while ends < len(partitions):
        message = consumer.poll(60)
        assert message is not None
        if message.error() is None:
            found.append(decode(message.value()))
        else:
            ends += 1
    consumer.close()
    return found


async def test_puts_made_together_are_one_record_and_each_hears_where_it_is(
    brokers: MockBrokers, outlet: Outlet
) -> None:
    written = await asyncio.gather(*(outlet.send(TOPIC, [JOB] * count, 7) for count in (1, 3, 2)))
    assert [each.number for each in written] == [0, 1, 4]
    assert len({(each.partition, each.offset) for each in written}) == 1
    assert [len(record) for record in records(brokers)] == [6]


async def test_what_does_not_fit_into_one_record_is_in_another_and_whole(brokers: MockBrokers, outlet: Outlet) -> None:
    counts = [JOBS_MAX - 1, 2, JOBS_MAX]
    written = await asyncio.gather(*(outlet.send(TOPIC, [JOB] * count, 7) for count in counts))
    assert [each.number for each in written] == [0, 0, 0]
    assert sorted(len(record) for record in records(brokers)) == sorted(counts)


async def test_what_passes_is_tried_again_and_written_once(brokers: MockBrokers, outlet: Outlet) -> None:
    brokers.fail_produce(*[NOT_ENOUGH_REPLICAS] * 3)
    await outlet.send(TOPIC, [JOB], 7)
    assert len(records(brokers)) == 1


async def test_what_does_not_pass_is_told_at_once_and_the_next_is_written(brokers: MockBrokers, outlet: Outlet) -> None:
    brokers.fail_produce(INVALID_RECORD)
    with pytest.raises(Unavailable) as failed:
        await outlet.send(TOPIC, [JOB], 7)
    assert (failed.value.code, failed.value.fields["reason"]) == ("log_not_written", "INVALID_RECORD")
    await outlet.send(TOPIC, [JOB] * 2, 7)
    assert [len(record) for record in records(brokers)] == [2]


async def test_a_producer_that_can_write_no_more_is_replaced(brokers: MockBrokers, outlet: Outlet) -> None:
    await outlet.send(TOPIC, [JOB], 7)
    brokers.fail_produce(OUT_OF_ORDER_SEQUENCE_NUMBER)
    with pytest.raises(Unavailable):
        await outlet.send(TOPIC, [JOB] * 2, 7)
    await until_written(outlet, [JOB] * 3)
    assert sorted(len(record) for record in records(brokers)) == [1, 3]


async def test_who_waits_for_a_broker_that_is_gone_hears_of_it_in_time(brokers: MockBrokers) -> None:
    outlet = Outlet({"bootstrap.servers": brokers.servers}, put_s=1.0)
    await until_written(outlet, [JOB])  # a second may be short for whoever connects first
    brokers.go_down()
    with pytest.raises(Unavailable, match="not written"):
        await outlet.send(TOPIC, [JOB], 7)
    await outlet.close()


async def test_closing_answers_everybody(brokers: MockBrokers) -> None:
    outlet = Outlet({"bootstrap.servers": brokers.servers}, put_s=60)
    sent = [outlet.send(TOPIC, [JOB], 7) for _ in range(3)]
    await outlet.close()
    assert {(await each).offset for each in sent} == {0}
