"""Which engine a queue is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from dougong.clock import Clock
from dougong.jobs._protocol import Queue
from dougong.jobs.sql import SqlQueue
from dougong.store import Store

__all__ = ["open_queue"]


async def open_queue(
    store: Store,
    clock: Clock,
    *,
    servers: str = "",
    prefix: str = "",
    queues: Iterable[str] = (),
    reopen: Callable[[], Awaitable[Store]] | None = None,
) -> Queue:
    """Jobs in the database; with `servers` (`host:port,host:port`) they travel through Kafka, and their states stay in
    the database. `prefix` begins the names of its topics, and is nobody else's; those of `queues` are made now.
    `reopen` opens the same database once more, so that a busy event loop loses no jobs. Started.
    """
    queue: Queue
    if servers:
        from dougong.jobs.kafka import KafkaQueue, KafkaQueueSettings  # the client library is an extra

        queue = KafkaQueue(store, servers, clock, KafkaQueueSettings(prefix=prefix), queues=queues, reopen=reopen)
    else:
        queue = SqlQueue(store, clock, reopen=reopen)
    await queue.start()
    return queue
