"""librdkafka's own pretended cluster: brokers that fail as they are told, by ctypes."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Generator
from pathlib import Path

import confluent_kafka

__all__ = ["INVALID_RECORD", "NOT_ENOUGH_REPLICAS", "OUT_OF_ORDER_SEQUENCE_NUMBER", "MockBrokers", "mock_brokers"]

PRODUCE = 0
NOT_ENOUGH_REPLICAS = 19
"""Passes by itself: a client tries again."""
INVALID_RECORD = 87
"""Does not."""
OUT_OF_ORDER_SEQUENCE_NUMBER = 45
"""Ends a producer: it cannot know any more what was written."""
_PRODUCER = 0


class MockBrokers:
    """A cluster of one broker, in this process."""

    def __init__(self, library: ctypes.CDLL, cluster: int) -> None:
        self._library = library
        self._cluster = ctypes.c_void_p(cluster)
        self._library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
        self.servers: str = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()

    def fail_produce(self, *errors: int) -> None:
        """What the next requests to write are answered, one each."""
        codes = (ctypes.c_int * len(errors))(*errors)
        self._library.rd_kafka_mock_push_request_errors_array(
            self._cluster, ctypes.c_int16(PRODUCE), ctypes.c_size_t(len(errors)), codes
        )

    def go_down(self) -> None:
        """It answers no more."""
        self._library.rd_kafka_mock_broker_set_down(self._cluster, ctypes.c_int32(1))

    def come_up(self) -> None:
        self._library.rd_kafka_mock_broker_set_up(self._cluster, ctypes.c_int32(1))


@contextlib.contextmanager
def mock_brokers() -> Generator[MockBrokers]:
    """Started; stopped afterwards."""
    (path,) = (Path(confluent_kafka.__file__).parent.parent / "confluent_kafka.libs").glob("librdkafka-*.so*")
    library = ctypes.CDLL(str(path))
    library.rd_kafka_conf_new.restype = ctypes.c_void_p
    library.rd_kafka_new.restype = ctypes.c_void_p
    library.rd_kafka_mock_cluster_new.restype = ctypes.c_void_p
    why = ctypes.create_string_buffer(200)
    handle = library.rd_kafka_new(_PRODUCER, ctypes.c_void_p(library.rd_kafka_conf_new()), why, len(why))
    assert handle, why.value
    cluster = library.rd_kafka_mock_cluster_new(ctypes.c_void_p(handle), 1)
    assert cluster
    try:
        yield MockBrokers(library, cluster)
    finally:
        library.rd_kafka_mock_cluster_destroy(ctypes.c_void_p(cluster))
        library.rd_kafka_destroy(ctypes.c_void_p(handle))
