"""Jobs in a log and a database: Kafka takes what comes, however much; the app's database knows what became of it.

The one idea: **until a row speaks for a job, its record does.** A job that waits for nothing but a worker is one record
of its queue's topic and costs the database nothing. The transaction in which a worker takes it writes its row, and only
then is its offset settled: a record that comes again (a rebalance, a crash) meets the row, and is passed over. All that
a log cannot do is the table's business from the start: jobs put in a transaction, due later, with a key, in an order,
in a group; and what comes again after a failure.

    queue = KafkaQueue(store, "kafka-1:9092,kafka-2:9092", SystemClock())
    await queue.start()
    await queue.put([send_receipt.call(7)])

Needs the extra `kafka`. It does not: run jobs (see `Worker`), share a log among several databases (each has a prefix of
its own), or make one broker durable against loss of power (that is what replicas are for).
"""

from typing import TYPE_CHECKING

from dougong.jobs.kafka.settings import KafkaQueueSettings

if TYPE_CHECKING:
    from dougong.jobs.kafka.queue import KafkaQueue

__all__ = ["KafkaQueue", "KafkaQueueSettings"]


def __getattr__(name: str) -> object:
    """Only what talks to a broker needs the extra: what decides is told in simulated worlds without it."""
    if name == "KafkaQueue":
        from dougong.jobs.kafka.queue import KafkaQueue

        return KafkaQueue
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
