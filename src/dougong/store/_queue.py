"""A queue in the database: messages that become true with the rows they speak of, and come again until they are done.

`put` runs in the unit that writes those rows, so there is no message without its rows and no rows without their
message. `take` postpones what it hands out: a message whose taker dies is simply due again, later each time, and after
its last attempt it is a dead letter, kept until somebody looks.
"""

from __future__ import annotations

import random as _random
from collections.abc import Callable, Sequence
from typing import cast

import msgspec

from dougong.store._protocol import Migration, Store, Tx

__all__ = ["Message", "Queue"]

_TABLE = """
CREATE TABLE dougong_queue (
    id BIGINT NOT NULL PRIMARY KEY,
    queue VARCHAR(100) NOT NULL,
    due_us BIGINT,
    attempts INTEGER NOT NULL,
    dead_us BIGINT,
    body TEXT NOT NULL,
    failure TEXT
);
CREATE INDEX dougong_queue_due ON dougong_queue (queue, due_us);
CREATE INDEX dougong_queue_dead ON dougong_queue (queue, dead_us);
"""
# MySQL's TEXT ends at 64 KiB.
_SCHEMA = [Migration(1, "queue", _TABLE, {"mysql": _TABLE.replace("body TEXT", "body MEDIUMTEXT")})]


_RUN = 1 << 24
"""Ids in a row before a new random number is drawn."""


class Message(msgspec.Struct, frozen=True):
    """One message as stored. Times are UTC microseconds."""

    id: int
    """Never used again, so a late `done` can hit no other message."""
    body: str
    attempts: int
    """How often it was taken, this time included."""
    dead_us: int | None = None
    failure: str = ""


class Queue:
    """`Queue(store, "emails")`. All methods but `start` run inside a unit, with whatever else belongs together."""

    def __init__(self, store: Store, name: str, *, random: Callable[[], float] = _random.random) -> None:
        self._store = store
        self._name = name
        self._random = random
        self._next_id = 0

    async def start(self) -> None:
        """Create the table when it is missing."""
        await self._store.migrate("dougong.queue", _SCHEMA)

    async def put(self, tx: Tx, body: str, due_us: int) -> int:
        """Add a message, to be taken from `due_us` on; its id."""
        id_ = self._take_id()
        await tx.execute(
            "INSERT INTO dougong_queue (id, queue, due_us, attempts, body) VALUES (?, ?, ?, 0, ?)",
            (id_, self._name, due_us, body),
        )
        return id_

    def _take_id(self) -> int:
        """Rising from a random number, so that processes do not meet and neighbours lie together."""
        if self._next_id % _RUN == 0:
            self._next_id = int(self._random() * (1 << 39)) * _RUN
        self._next_id += 1
        return self._next_id

    async def due(self, tx: Tx, now_us: int, limit: int) -> list[Message]:
        """What may be taken now, the longest overdue first. Each has then to be `done`, come `again`, or be buried."""
        rows = await tx.fetch_all(
            "SELECT id, body, attempts FROM dougong_queue WHERE queue = ? AND due_us <= ? ORDER BY due_us LIMIT ?",
            (self._name, now_us, limit),
        )
        return [Message(cast(int, id_), cast(str, body), cast(int, n) + 1) for id_, body, n in rows]

    async def next_us(self, tx: Tx) -> int | None:
        """When the next message is due; None when none waits."""
        row = await tx.fetch_one("SELECT min(due_us) FROM dougong_queue WHERE queue = ?", (self._name,))
        return cast("int | None", row[0]) if row is not None else None

    async def done(self, tx: Tx, messages: Sequence[Message]) -> None:
        """Drop them."""
        await tx.execute_many("DELETE FROM dougong_queue WHERE id = ?", [(m.id,) for m in messages])

    async def again(self, tx: Tx, messages: Sequence[tuple[Message, int]]) -> None:
        """(message, due_us): they come again then."""
        await tx.execute_many(
            "UPDATE dougong_queue SET due_us = ?, attempts = ? WHERE id = ?",
            [(due_us, m.attempts, m.id) for m, due_us in messages],
        )

    async def bury(self, tx: Tx, messages: Sequence[tuple[Message, str]], now_us: int) -> None:
        """(message, why): dead letters, which nobody takes."""
        await tx.execute_many(
            "UPDATE dougong_queue SET due_us = NULL, dead_us = ?, attempts = ?, failure = ? WHERE id = ?",
            [(now_us, m.attempts, why, m.id) for m, why in messages],
        )

    async def dead(self, tx: Tx, limit: int) -> list[Message]:
        """Dead letters, those that died first first."""
        rows = await tx.fetch_all(
            "SELECT id, body, attempts, dead_us, failure FROM dougong_queue "
            "WHERE queue = ? AND dead_us IS NOT NULL ORDER BY dead_us LIMIT ?",
            (self._name, limit),
        )
        return [Message(*row) for row in rows]  # type: ignore[arg-type]

    async def revive(self, tx: Tx, messages: Sequence[Message]) -> None:
        """Dead letters that are due at once, with all their attempts again."""
        await tx.execute_many(
            "UPDATE dougong_queue SET due_us = 0, dead_us = NULL, attempts = 0 WHERE id = ? AND dead_us IS NOT NULL",
            [(m.id,) for m in messages],
        )
