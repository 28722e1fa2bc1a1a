"""Who looks into the log is not sent away while the group's coordinator moves."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from dougong.errors import Unavailable
from dougong.jobs.kafka import KafkaQueueSettings
from dougong.jobs.kafka.assignment import Part
from dougong.jobs.kafka.looking import Looking
from dougong.jobs.kafka.waiting import Depth


class Consumer:
    """Answers with these errors first."""

    def __init__(self, *errors: int) -> None:
        self.errors = list(errors)

    def committed(self, wanted: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        if self.errors:
            raise KafkaException(KafkaError(self.errors.pop(0)))
        return [TopicPartition(at.topic, at.partition, 3) for at in wanted]

    def get_watermark_offsets(self, at: TopicPartition, timeout: float) -> tuple[int, int]:
        return 0, 5


async def depths(answer_s: float, *errors: int) -> dict[Part, Depth]:
    looking = Looking("", KafkaQueueSettings(prefix="t.", answer_s=answer_s))
    told: Any = Consumer(*errors)
    looking._consumer = told
    return await looking.depths([Part("default", 0)])


async def test_a_coordinator_that_moves_is_waited_for() -> None:
    moves = [KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_LOAD_IN_PROGRESS]
    assert await depths(60.0, *moves) == {Part("default", 0): Depth(3, 5, frozenset())}


@pytest.mark.parametrize("error", [KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError.NOT_COORDINATOR])
async def test_what_does_not_pass_is_told(error: int) -> None:
    with pytest.raises(Unavailable):
        await depths(0.3, *[error] * 10)
