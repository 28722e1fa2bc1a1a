"""The user centre over several databases: where users are, what is one in all, and what one database can break."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.shop.till import counter, order, outcome, shop_stores

from dougong.clock import SystemClock
from dougong.errors import Conflict, Error, Invalid, Unavailable
from dougong.rpc import call_scope
from dougong.shard import BUCKETS, Layout, ShardedStore, hash_bucket, is_aligned, open_sharded_store
from dougong.store import Row, Tx, migrations_from
from dougong.tcc import ParticipantService
from shop.inventory import StockHolds
from shop.orders import CancelOrder
from shop.users import WalletHolds
from shop.users.user_core import User, UserGateway, Wallet

EMPTY = Wallet(0, "EUR", 1000, deposited=1000)


@pytest.fixture
def layout(fresh_url: Callable[[], str]) -> Layout:
    return Layout("users", fresh_url(), {f"db-{number}": fresh_url() for number in range(4)})


@pytest.fixture
async def sharded(layout: Layout) -> AsyncIterator[ShardedStore]:
    store = await open_sharded_store(layout)
    await store.migrate("users", migrations_from("shop.users.migrations"))
    yield store
    await store.close()


@pytest.fixture
async def gateway(sharded: ShardedStore) -> AsyncIterator[UserGateway]:
    made = UserGateway(sharded, SystemClock())
    await made.start()
    await made.fill(())
    yield made
    await made.stop()


async def register(gateway: UserGateway, email: str) -> User:
    return await gateway.register(email, "Ann", "a hash", EMPTY, role="customer")


async def test_a_user_lies_where_the_id_says(gateway: UserGateway, sharded: ShardedStore) -> None:
    users = await asyncio.gather(*(register(gateway, f"u{number}@x.example") for number in range(40)))
    assert len({sharded.map.places[user.id % BUCKETS].shard for user in users}) == 4
    for user in users:
        assert is_aligned(user.id)
        assert user.id % BUCKETS == hash_bucket(user.email)
        assert await gateway.find(user.email) == await gateway.get(user.id) == user
        assert await gateway.wallet(user.id) == msgspec.structs.replace(EMPTY, user_id=user.id)
        assert (await sharded.why(user.id)).shard == sharded.map.places[user.id % BUCKETS].shard
    assert await gateway.books() == (40, 40_000, 0, 0, 40_000)
    await gateway.rename(users[0].id, "Bea")
    renamed = await gateway.get(users[0].id)
    assert renamed is not None
    assert renamed.name == "Bea"
    await gateway.rename(users[0].id + BUCKETS, "nobody")
    assert await gateway.get(users[0].id + BUCKETS) is None
    assert await gateway.find("nobody@x.example") is None


async def test_an_address_is_one_in_all_databases(gateway: UserGateway, sharded: ShardedStore) -> None:
    """Also where ids fall into other buckets than the address: a first user's do."""
    await gateway.fill(
        [(User(5, "five@x.example", "Five", "", "customer", 1), msgspec.structs.replace(EMPTY, user_id=5))]
    )
    assert hash_bucket("five@x.example") != 5
    for email in ("five@x.example", "new@x.example"):
        answers = await asyncio.gather(*(register(gateway, email) for _ in range(10)), return_exceptions=True)
        refused = [answer.code for answer in answers if isinstance(answer, Conflict)]
        assert refused == ["email_taken"] * (10 - (email == "new@x.example"))
    assert (await gateway.books())[0] == 2
    await gateway.sweep()
    for email in ("five@x.example", "new@x.example"):
        assert await gateway.find(email) is not None


async def test_first_users_get_in_once_also_when_it_was_broken_off(gateway: UserGateway, sharded: ShardedStore) -> None:
    users = [User(id_, f"first-{id_}@x.example", "First", "", "customer", 1) for id_ in range(1, 301)]
    accounts = [(user, msgspec.structs.replace(EMPTY, user_id=user.id)) for user in users]
    await gateway.fill(account for account in accounts if account[0].id % 4 == 1)
    await asyncio.gather(*(gateway.fill(accounts) for _ in range(2)))
    assert await gateway.books() == (300, 300_000, 0, 0, 300_000)
    for user in users[::37]:
        assert await gateway.find(user.email) == user


async def test_a_database_that_is_gone_concerns_its_own_users(gateway: UserGateway, sharded: ShardedStore) -> None:
    users = [await register(gateway, f"u{number}@x.example") for number in range(12)]
    await sharded.databases.call("db-2", lambda store: store.close())
    for user in users:
        if user.id % 4 == 2:
            with pytest.raises(Unavailable):
                await gateway.find(user.email)
        else:
            assert await gateway.find(user.email) == user
    with pytest.raises(Unavailable):  # no books that leave some out
        await gateway.books()


async def test_only_ids_that_say_their_bucket_will_do(layout: Layout) -> None:
    store = await open_sharded_store(msgspec.structs.replace(layout, routing="consistent-hash"))
    with pytest.raises(Invalid, match="modulo"):
        UserGateway(store, SystemClock())
    await store.close()


async def test_orders_freeze_money_in_the_bucket_of_their_customer(
    gateway: UserGateway, sharded: ShardedStore, tmp_path: Path
) -> None:
    users = [await register(gateway, f"u{number}@x.example") for number in range(20)]
    holds: ParticipantService[Any] = ParticipantService(WalletHolds(), sharded)
    await holds.start()
    async with shop_stores(tmp_path) as (inventory, _):
        stock: ParticipantService[Any] = ParticipantService(StockHolds(), inventory)
        await stock.start()
        participants = {StockHolds.service: stock, WalletHolds.service: holds}
        async with counter(tmp_path, inventory, participants) as shop:
            requests = [*(order(user.id) for user in users), *(order(user.id, quantity=9) for user in users[:5])]
            placed = await shop.place(*requests)
            assert [outcome(one) for one in placed] == ["placed"] * 20 + ["insufficient_funds"] * 5
            for user, one in zip(users, placed, strict=False):
                assert not isinstance(one, Error)
                assert int(one.order_id) % BUCKETS == user.id % BUCKETS
            while (await gateway.books())[2]:
                await asyncio.sleep(0.01)
            assert await gateway.books() == (20, 20 * 750, 0, 20 * 250, 20_000)
            first = placed[0]
            assert not isinstance(first, Error)
            with call_scope(timeout_s=10.0):
                await shop.orders.cancel_order(CancelOrder(order_id=first.order_id, user_id=str(users[0].id)))
            while (await gateway.books())[3] != 19 * 250:
                await asyncio.sleep(0.01)

    async def fences(tx: Tx) -> list[Row]:
        return await tx.fetch_all("SELECT transaction_id FROM dougong_fence")

    for name in sharded.databases.names:
        for (transaction,) in await sharded.databases.call(name, lambda store: store.read(fences)):
            assert sharded.map.places[int(str(transaction)) % BUCKETS].shard == name
