"""The baseline: each order takes its stock in a transaction of its own, under a row's lock, and waits for the disk.

What a service does that has one database and no batches. It is one hop shorter than a transaction over two services,
and still pays a sync per order; on a row that everybody wants, one at a time.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from pathlib import Path

from dougong.store import Migration, open_store
from shop.proof.tcc.shelf import stock_up

__all__ = ["mysql_row_lock", "sqlite_row_lock"]

_ORDERS = "CREATE TABLE orders (id BIGINT NOT NULL PRIMARY KEY, sku INTEGER NOT NULL, quantity INTEGER NOT NULL)"
_CLIENTS = 16


def sqlite_row_lock(path: Path, seconds: float, skus: int) -> float:
    """Orders a second on SQLite, whose one write lock is all the locking there is."""
    asyncio.run(_prepare(f"sqlite:///{path}"))
    db = sqlite3.connect(path, isolation_level=None)
    try:
        db.execute("PRAGMA synchronous = full")
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            count += 1
            sku = count * 7919 % skus
            db.execute("BEGIN IMMEDIATE")
            (left,) = db.execute("SELECT available FROM shelf WHERE sku = ?", (sku,)).fetchone()
            assert left >= 1
            db.execute("UPDATE shelf SET available = available - 1, sold = sold + 1 WHERE sku = ?", (sku,))
            db.execute("INSERT INTO orders VALUES (?, ?, 1)", (count, sku))
            db.execute("COMMIT")
        return count / (time.perf_counter() - start)
    finally:
        db.close()


async def mysql_row_lock(url: str, seconds: float, skus: int) -> float:
    """Orders a second on MySQL or MariaDB over sixteen connections."""
    import asyncmy
    from sqlalchemy.engine import make_url

    await _prepare(url)
    where = make_url(url)
    socket = where.query.get("unix_socket")
    count, start = 0, time.perf_counter()

    async def buy(number: int) -> None:
        nonlocal count
        connection = await asyncmy.connect(
            host=where.host or "127.0.0.1",
            port=where.port or 3306,
            user=where.username or "root",
            password=where.password or "",
            database=where.database,
            unix_socket=socket if isinstance(socket, str) else None,
        )
        async with connection, connection.cursor() as cursor:
            order = number
            while time.perf_counter() - start < seconds:
                order += _CLIENTS
                sku = order * 7919 % skus
                await connection.begin()
                await cursor.execute("SELECT available FROM shelf WHERE sku = %s FOR UPDATE", (sku,))
                await cursor.fetchone()
                await cursor.execute(
                    "UPDATE shelf SET available = available - 1, sold = sold + 1 WHERE sku = %s", (sku,)
                )
                await cursor.execute("INSERT INTO orders VALUES (%s, %s, 1)", (order, sku))
                await connection.commit()
                count += 1

    async with asyncio.TaskGroup() as group:
        for number in range(_CLIENTS):
            group.create_task(buy(number))
    return count / (time.perf_counter() - start)


async def _prepare(url: str) -> None:
    store = await open_store(url, name="naive")
    await stock_up(store)
    await store.migrate("proof.orders", [Migration(1, "orders", _ORDERS)])
    await store.close()
