"""The user centre over 128 MariaDB schemas: registering, logging in, ordering; and what 128 open stores weigh."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests import engines
from tests.shop.till import counter, order, outcome, shop_stores
from tests.shop.user_desk import Desk

from dougong.clock import SystemClock
from dougong.errors import Conflict, Error
from dougong.rpc import call_scope
from dougong.shard import BUCKETS, Layout, Query, ShardedTable, ask, open_sharded_store, verify
from dougong.store import migrations_from
from dougong.tcc import ParticipantService
from shop.inventory import StockHolds
from shop.orders import CancelOrder
from shop.users import Login, Register, UsersSettings, WalletHolds
from shop.users._demo import DEMO_PASSWORD, seed
from shop.users._passwords import Passwords
from shop.users.user_core import UserGateway

MEMORY_MB_MAX = 150


@pytest.fixture
def layout() -> Iterator[Layout]:
    server = engines.server("mysql")
    server.sql("SET GLOBAL max_connections = 600")
    with ExitStack() as stack:
        urls = [stack.enter_context(server.database()) for _ in range(BUCKETS + 1)]
        yield Layout("users", urls[-1], {f"db-{number}": url for number, url in enumerate(urls[:-1])})


def resident_mb() -> float:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


async def test_users_in_a_schema_for_each_bucket(layout: Layout, tmp_path: Path) -> None:
    before_mb = resident_mb()
    sharded = await open_sharded_store(layout)
    await sharded.migrate("users", migrations_from("shop.users.migrations"))
    totals = Query(table=ShardedTable("users"), select=("count(*)",))
    assert (await ask(sharded, totals, scatter=True)).rows == [(0,)]  # each has a connection to write and one to read
    weight_mb = resident_mb() - before_mb
    assert weight_mb <= MEMORY_MB_MAX, f"128 open stores took {weight_mb:.0f} MB"

    gateway, passwords, clock = UserGateway(sharded, SystemClock()), Passwords(), SystemClock()
    await gateway.start()
    holds: ParticipantService[Any] = ParticipantService(WalletHolds(), sharded)
    await holds.start()
    settings = UsersSettings(demo_users=2 * BUCKETS)
    await seed(gateway, clock, passwords, settings)
    assert (await gateway.books())[0] == 2 * BUCKETS + 2

    users = Desk(sharded, gateway, passwords).users
    ann = Register(email="ann@x.example", password="correct horse", name="Ann")
    profile = await users.register(ann)
    with pytest.raises(Conflict, match="has an account"):
        await users.register(ann)
    assert (await users.login(Login(email="ANN@x.example", password="correct horse"))).user_id == profile.user_id
    assert (await users.login(Login(email="user-77@shop.example", password=DEMO_PASSWORD))).user_id == "77"

    async with shop_stores(tmp_path) as (inventory, _):
        stock: ParticipantService[Any] = ParticipantService(StockHolds(), inventory)
        await stock.start()
        async with counter(tmp_path, inventory, {StockHolds.service: stock, WalletHolds.service: holds}) as shop:
            customers = [*range(1, 50), int(profile.user_id)]
            placed = await shop.place(*(order(user_id) for user_id in customers))
            assert {outcome(one) for one in placed} == {"placed"}
            last = placed[-1]
            assert not isinstance(last, Error)
            assert int(last.order_id) % BUCKETS == int(profile.user_id) % BUCKETS
            with call_scope(timeout_s=30.0):
                await shop.orders.cancel_order(CancelOrder(order_id=last.order_id, user_id=profile.user_id))
            async with asyncio.timeout(60):
                while (await gateway.books())[2:4] != (0, 49 * 250):
                    await asyncio.sleep(0.05)
    assert await verify(sharded) == []
    await gateway.stop()
    passwords.close()
    await sharded.close()
