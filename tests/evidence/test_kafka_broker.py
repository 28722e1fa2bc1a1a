"""The broker that tests and experiments run on: it keeps what it acknowledged, and is exactly what is listed."""

from __future__ import annotations

from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from tests import engines

from dougong.evidence import kafka_broker

pytestmark = pytest.mark.xdist_group("kafka")


def test_a_killed_broker_comes_back_with_what_it_acknowledged() -> None:
    broker = engines.make_kafka()
    try:
        quiet: dict[str, str | int | float | bool] = {"bootstrap.servers": broker.address, "log_level": 0}
        admin = AdminClient(quiet)
        admin.create_topics([NewTopic("kept", 1, 1)])["kept"].result(60)
        producer = Producer(quiet)
        producer.produce("kept", b"first")
        assert producer.flush(60) == 0

        broker.kill()
        broker.start()

        consumer = Consumer({**quiet, "group.id": "reader", "auto.offset.reset": "earliest"})
        consumer.assign([TopicPartition("kept", 0, 0)])
        message = consumer.poll(60)
        assert message is not None
        assert (message.error(), message.value()) == (None, b"first")
        consumer.close()
    finally:
        broker.remove()
    assert not broker.folder.exists()


def test_a_jar_with_other_bytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jars = engines.kafka()._jars  # what was fetched, so that nothing is now
    listed = tmp_path / "listed.txt"
    name, coordinates = "org.slf4j.slf4j-api-1.7.36.jar", "org.slf4j:slf4j-api:1.7.36"
    assert f"{coordinates} " in kafka_broker._LIST.read_text()
    listed.write_text(f"{coordinates} {'0' * 64}\n")
    monkeypatch.setattr(kafka_broker, "_LIST", listed)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(kafka_broker, "_find", lambda _name: str(_pretend_maven(tmp_path, jars / name)))
    with pytest.raises(RuntimeError, match=r"slf4j-api:1\.7\.36 is not what"):
        kafka_broker.fetch_jars()
    assert not list((tmp_path / "dougong").glob("kafka-*")), "nothing of it is kept"


def _pretend_maven(folder: Path, jar: Path) -> Path:
    """A program that copies one jar where `mvn` was asked to."""
    program = folder / "mvn"
    program.write_text(
        f'#!/bin/sh\nfor each; do case $each in -DoutputDirectory=*) cp {jar} "${{each#*=}}";; esac; done\n'
    )
    program.chmod(0o755)
    return program
