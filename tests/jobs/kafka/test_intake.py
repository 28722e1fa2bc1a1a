"""The poll thread's own decisions, against a consumer that is told what to answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, KafkaError, KafkaException, TopicPartition

from dougong.jobs.kafka import KafkaQueueSettings, intake
from dougong.jobs.kafka.assignment import Part
from dougong.jobs.kafka.intake import Intake


class Consumer:
    """Refuses to say what was committed, so often."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        self.assigned: dict[int, int] = {}

    def committed(self, wanted: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        if self.refusals:
            self.refusals -= 1
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        return [TopicPartition(at.topic, at.partition) for at in wanted]

    def incremental_assign(self, parts: list[TopicPartition]) -> None:
        self.assigned |= {at.partition: at.offset for at in parts}

    def incremental_unassign(self, parts: list[TopicPartition]) -> None:
        for at in parts:
            del self.assigned[at.partition]


def made(lanes: Iterator[int | None]) -> Intake:
    one = Intake("", KafkaQueueSettings(prefix="t."), lambda part: next(lanes), lambda: None)
    one._topics["t.default"] = "default"
    return one


@pytest.mark.parametrize(("refusals", "lanes"), [(1, [1, 2]), (0, [None, 2, 1])])
def test_a_partition_whose_beginning_cannot_be_told_is_begun_later(
    refusals: int, lanes: list[int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would be ours, nobody else's, and never read."""
    monkeypatch.setattr(intake, "_OWED_S", 0.0)
    one, consumer = made(iter(lanes)), Consumer(refusals)
    told: Any = consumer
    one._on_assign(told, [TopicPartition("t.default", 0), TopicPartition("t.default", 1)])
    assert consumer.assigned[0] == OFFSET_END
    one._begin_owed(told)
    assert consumer.assigned == {0: OFFSET_BEGINNING, 1: OFFSET_BEGINNING}
    assert set(one._assignment.parts) == {Part("default", 0), Part("default", 1)}
    one._on_lost(told, [TopicPartition("t.default", 0)])
    assert set(one._assignment.parts) == {Part("default", 1)}


def test_what_is_owed_and_lost_is_asked_for_no_more() -> None:
    one, consumer = made(iter([])), Consumer(1)
    told: Any = consumer
    one._on_assign(told, [TopicPartition("t.default", 0)])
    one._on_lost(told, [TopicPartition("t.default", 0)])
    assert not one._owed
    assert not consumer.assigned


@pytest.mark.parametrize(("instance", "said"), [("", ["unsubscribe", "close"]), ("web-1", ["close"])])
async def test_only_who_keeps_its_place_leaves_without_a_word(
    instance: str, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []

    class Leaving:
        def __init__(self, options: dict[str, object]) -> None: ...

        def subscribe(self, topics: list[str], **calls: object) -> None: ...

        def poll(self, timeout_s: float) -> None: ...

        def unsubscribe(self) -> None:
            heard.append("unsubscribe")

        def close(self) -> None:
            heard.append("close")

    monkeypatch.setattr(intake, "Consumer", Leaving)
    one = Intake("", KafkaQueueSettings(prefix="t.", instance=instance), lambda part: None, lambda: None)
    one.read(["default"])
    await one.close()
    assert heard == said
