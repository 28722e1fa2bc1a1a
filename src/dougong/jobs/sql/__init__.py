"""Jobs in a database: SQLite, MariaDB or PostgreSQL, the one that the app has anyway.

The one idea: **a turn is one transaction.** A worker writes down what ended and takes what is due in the same commit,
many jobs at once; and since units of several processes on one database never overlap (decision 0015), nothing is
locked, skipped or taken twice. A job that waits stands in one index, by priority and time; one that is over is in none.

    queue = SqlQueue(store, SystemClock())
    await queue.start()

    async def place(tx: Tx) -> None:
        await tx.execute("INSERT INTO orders (id, sku) VALUES (?, ?)", (7, "lamp"))
        await queue.put([send_receipt.call(7)], tx)

    await store.write(place)

What it costs: a job that waits, runs and is done is one row, written three times, in batches; a key, an order, a group
or a chain is a row more for those that have it. How many wait makes no difference, since everything is found by an
index that holds only what is looked for, and nothing is ever counted: each transaction adds what it moved to its
queues' numbers.

It does not: run jobs (see `Worker`), call anybody, or spread one queue over several databases.
"""

from dougong.jobs.sql.queue import SqlQueue
from dougong.jobs.sql.settings import SqlQueueSettings

__all__ = ["SqlQueue", "SqlQueueSettings"]
