"""Databases: one `Store` each, units of work, group commit.

For services that must not lose what they acknowledged, at the price of few syncs. The one idea: *a commit costs a sync,
so units of work that are in flight together share one*. While one commit is being synced, arriving units wait and then
ride together in the next: closed loop, no timer. A lone caller pays for one sync; a thousand callers pay for a handful.

    store = await open_store("sqlite:///data/orders.db")     # or mysql://user:password@host/orders, or postgresql://...
    await store.migrate("orders", migrations_from("shop.orders.migrations"))

    async def place(tx: Tx) -> int:
        await tx.execute("INSERT INTO orders (id, sku) VALUES (?, ?)", (7, "lamp"))
        return 7

    await store.write(place)                      # returns once it is on the disk
    row = await store.fetch_one("SELECT sku FROM orders WHERE id = ?", (7,))

A unit awaits nothing but its transaction, may run more than once, and raising undoes exactly that unit, never its
neighbours. Cancelling a caller whose unit has not started takes the unit out; later it only drops the result, and the
unit is kept. Everything that can go wrong with a disk or a server is `Unavailable` with a code that says what
(`disk_full`, `read_only`, `locked`, `connection_lost`, ...) and goes away when the cause does.

Connections to a server are checked before use, replaced in time, and missed when they do not come back: who keeps one
is named in the log, with task and stack (decision 0024). A server that does not answer is left alone for a while
(`breaker_open`). `open_pool` gives such a pool to who needs one connection for several statements.

Units of several processes on one database never overlap, on any engine (decision 0015): a unit may read, decide in
memory and write.

It does not: build SQL (see `dao`), translate SQL between engines, spread data over databases, keep long scans off the
loop, or make a network file system safe for SQLite.
"""

from dougong.store._halving import in_halves
from dougong.store._ids import IdBlocks
from dougong.store._leaks import Leak
from dougong.store._lists import execute_with, fetch_with
from dougong.store._migrate import migrations_from
from dougong.store._open import check_database_url, open_pool, open_store
from dougong.store._pool import Lease, Pool
from dougong.store._protocol import Migration, Row, Store, Tx, Unit, Value
from dougong.store._queue import Message, Queue
from dougong.store.memory import MemoryDatabase

__all__ = [
    "IdBlocks",
    "Leak",
    "Lease",
    "MemoryDatabase",
    "Message",
    "Migration",
    "Pool",
    "Queue",
    "Row",
    "Store",
    "Tx",
    "Unit",
    "Value",
    "check_database_url",
    "execute_with",
    "fetch_with",
    "in_halves",
    "migrations_from",
    "open_pool",
    "open_store",
]
