"""A participant over many databases: each branch in the bucket of its rows, a batch as one unit per database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import msgspec
import pytest
from tests.tcc.stage import coordinating, placing

from dougong.errors import Unavailable
from dougong.shard import BUCKETS, Key, Layout, Place, ShardedStore, open_sharded_store
from dougong.store import Migration, Row, Store, Tx
from dougong.tcc import Hold, NewTransaction, Participant, ParticipantService, Refusal
from dougong.tcc.wire import BranchReply, Forget, Settle, TryBatch

PURSES = "CREATE TABLE purses (id BIGINT PRIMARY KEY, available INTEGER, frozen INTEGER, spent INTEGER)"


class Pay(msgspec.Struct, frozen=True):
    purse: int
    amount: int


class Purses(Participant[Pay], service="test.v1.Purses", payload=Pay):
    """No CHECK, so that a mistake shows in the books instead of failing the call."""

    poison: frozenset[int] = frozenset()

    def key(self, payload: Pay) -> Key:
        return payload.purse

    async def try_(self, tx: Tx, holds: Sequence[Hold[Pay]]) -> Sequence[Refusal | None]:
        answers: list[Refusal | None] = []
        for hold in holds:
            amount, purse = hold.payload.amount, hold.payload.purse
            took = await tx.execute(
                "UPDATE purses SET available = available - ?, frozen = frozen + ? WHERE id = ? AND available >= ?",
                (amount, amount, purse, amount),
            )
            answers.append(None if took else Refusal("insufficient_funds", "not enough"))
        return answers

    async def confirm(self, tx: Tx, holds: Sequence[Hold[Pay]]) -> None:
        if any(hold.transaction in self.poison for hold in holds):
            raise RuntimeError("poison")
        await self._move(tx, "UPDATE purses SET frozen = frozen - ?, spent = spent + ? WHERE id = ?", holds)

    async def cancel(self, tx: Tx, holds: Sequence[Hold[Pay]]) -> None:
        await self._move(tx, "UPDATE purses SET frozen = frozen - ?, available = available + ? WHERE id = ?", holds)

    async def _move(self, tx: Tx, sql: str, holds: Sequence[Hold[Pay]]) -> None:
        await tx.execute_many(sql, [(hold.payload.amount, hold.payload.amount, hold.payload.purse) for hold in holds])


@pytest.fixture
async def open_(fresh_url: Callable[[], str]) -> AsyncIterator[Callable[[], Awaitable[ShardedStore]]]:
    layout = Layout("purses", fresh_url(), {f"db-{number}": fresh_url() for number in range(4)})
    opened: list[ShardedStore] = []

    async def open_() -> ShardedStore:
        store = await open_sharded_store(layout)
        opened.append(store)
        return store

    yield open_
    for store in opened:
        await store.close()


@pytest.fixture
async def sharded(open_: Callable[[], Awaitable[ShardedStore]]) -> ShardedStore:
    store = await open_()
    await store.migrate("test", [Migration(1, "purses", PURSES)])
    for bucket in range(BUCKETS):

        async def unit(tx: Tx, bucket: int = bucket) -> None:
            await tx.execute("INSERT INTO purses VALUES (?, 100, 0, 0)", (bucket,))

        await store.store_at(bucket).write(unit)
    return store


@pytest.fixture
async def purses(sharded: ShardedStore) -> ParticipantService[Any]:
    service = ParticipantService(Purses(), sharded)
    await service.start()
    return service


def tx_id(number: int, purse: int) -> int:
    """An id that ends with the bucket of the purse."""
    return number << 8 | purse % BUCKETS


def tries(pays: Sequence[tuple[int, int, int]], *, sent_us: int = 1000) -> TryBatch:
    """(transaction, purse, amount)"""
    payloads = [msgspec.msgpack.encode(Pay(purse, amount)) for _, purse, amount in pays]
    return TryBatch(initiator="orders", sent_us=sent_us, transactions=[t for t, _, _ in pays], payloads=payloads)


def settle(ids: Sequence[int], *, sent_us: int = 2000) -> Settle:
    return Settle(initiator="orders", sent_us=sent_us, transactions=list(ids))


def said(reply: BranchReply) -> dict[int, str]:
    return dict(zip(reply.items, reply.codes, strict=True))


async def purse(sharded: ShardedStore, id_: int) -> Row | None:
    return await sharded.store_of(id_).fetch_one("SELECT available, frozen, spent FROM purses WHERE id = ?", (id_,))


async def fenced(sharded: ShardedStore, name: str) -> list[tuple[int, int]]:
    rows = await sharded.databases.call(
        name, lambda store: store.fetch_all("SELECT transaction_id, state FROM dougong_fence ORDER BY transaction_id")
    )
    return [(int(t) % BUCKETS, int(state)) for t, state in rows]  # type: ignore[arg-type]


async def test_each_branch_lies_beside_its_rows(purses: ParticipantService[Any], sharded: ShardedStore) -> None:
    pays = [(tx_id(1 + n, n), n, 10) for n in range(8)]
    assert said(await purses.try_(tries([*pays, (tx_id(9, 3), 3, 95)]))) == {8: "insufficient_funds"}
    assert await purse(sharded, 5) == (90, 10, 0)
    assert said(await purses.confirm(settle([t for t, _, _ in pays[:6]]))) == {}
    assert said(await purses.cancel(settle([t for t, _, _ in pays[6:]]))) == {}
    assert [await purse(sharded, n) for n in (0, 5, 6, 7)] == [(90, 0, 10), (90, 0, 10), (100, 0, 0), (100, 0, 0)]
    assert await fenced(sharded, "db-1") == [(1, 2), (5, 2)]
    assert await fenced(sharded, "db-3") == [(3, 2), (7, 3), (3, 5)]


async def test_repeats_and_contradictions_are_answered_as_by_one_database(
    purses: ParticipantService[Any], sharded: ShardedStore
) -> None:
    one, two = tx_id(1, 1), tx_id(2, 2)
    for _ in range(2):
        assert said(await purses.try_(tries([(one, 1, 10), (two, 2, 10), (one, 1, 10)]))) == {}
    assert said(await purses.try_(tries([(two, 2, 10), (one, 1, 11)]))) == {1: "payload_mismatch"}
    for _ in range(2):
        assert said(await purses.confirm(settle([two, one, two]))) == {}
    assert said(await purses.cancel(settle([tx_id(7, 7), one]))) == {1: "cancel_after_confirm"}
    assert said(await purses.try_(tries([(tx_id(7, 7), 7, 1)]))) == {0: "suspended"}
    assert said(await purses.confirm(settle([tx_id(7, 7), one, tx_id(8, 8)]))) == {
        0: "confirm_after_cancel",
        2: "confirm_without_try",
    }
    assert [await purse(sharded, n) for n in (1, 2, 7)] == [(90, 0, 10), (90, 0, 10), (100, 0, 0)]


async def test_a_branch_that_would_lie_elsewhere_is_refused(
    purses: ParticipantService[Any], sharded: ShardedStore
) -> None:
    reply = await purses.try_(tries([(tx_id(1, 1), 2, 10), (tx_id(2, 2), 2, 10)]))
    assert (said(reply), reply.families) == ({0: "misplaced_branch"}, ["invalid"])
    assert await purse(sharded, 2) == (90, 10, 0)


async def test_ablation_without_that_check_money_is_looked_for_in_the_wrong_database(
    purses: ParticipantService[Any], sharded: ShardedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Purses, "key", lambda self, payload: None)
    assert said(await purses.try_(tries([(tx_id(1, 1), 2, 10)]))) == {0: "insufficient_funds"}  # it has a hundred


async def test_one_that_fails_fails_alone(
    purses: ParticipantService[Any], sharded: ShardedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [tx_id(1 + n, n) for n in range(12)]
    await purses.try_(tries([(t, t % BUCKETS, 10) for t in ids]))
    monkeypatch.setattr(Purses, "poison", frozenset({ids[5]}))
    reply = await purses.confirm(settle(ids))
    assert (said(reply), reply.families) == ({5: "participant_failed"}, ["internal"])
    assert [await purse(sharded, n) for n in (1, 5, 9)] == [(90, 0, 10), (90, 10, 0), (90, 0, 10)]


async def test_a_database_that_is_gone_fails_its_own_branches(
    purses: ParticipantService[Any], sharded: ShardedStore
) -> None:
    ids = [tx_id(1 + n, n) for n in range(4)]
    await sharded.databases.call("db-2", lambda store: store.close())
    reply = await purses.try_(tries([(t, t % BUCKETS, 10) for t in ids]))
    assert (reply.items, reply.families) == ([2], ["unavailable"])
    reply = await purses.confirm(settle(ids))
    assert (reply.items, reply.families) == ([2], ["unavailable"])
    assert await purse(sharded, 3) == (90, 0, 10)
    with pytest.raises(Unavailable):
        await purses.confirm(settle([ids[2]]))


async def move(sharded: ShardedStore, bucket: int, target: str) -> None:
    """With nobody writing: every declared table's rows, by what was declared of them."""
    await sharded.refresh()
    before = sharded.map.places[bucket]
    copies: list[tuple[str, list[Row]]] = []
    for table, bucket_sql in {**await sharded.maps.tables(), "purses": f"id % {BUCKETS}"}.items():
        sql = f"SELECT * FROM {table} WHERE {bucket_sql} = {bucket}"
        copies.append((table, await sharded.databases.call(before.shard, lambda s, sql=sql: s.fetch_all(sql))))  # type: ignore[misc]

    async def take(tx: Tx) -> None:
        for table, rows in copies:
            for row in rows:
                await tx.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
        await tx.execute("INSERT INTO dougong_bucket_owner VALUES (?, ?, 'serving')", (bucket, before.epoch + 1))

    async def leave(tx: Tx) -> None:
        await tx.execute("DELETE FROM dougong_bucket_owner WHERE bucket = ?", (bucket,))

    await sharded.databases.call(before.shard, lambda store: store.write(leave))
    await sharded.databases.call(target, lambda store: store.write(take))
    await sharded.maps.change(bucket, before, Place(target, before.epoch + 1))


async def test_a_bucket_moves_between_try_and_confirm_and_takes_fence_and_floor_along(
    purses: ParticipantService[Any], sharded: ShardedStore, open_: Callable[[], Awaitable[ShardedStore]]
) -> None:
    ids = [tx_id(1 + n, n) for n in range(8)]
    await purses.try_(tries([(t, t % BUCKETS, 10) for t in ids[:7]]))
    await purses.forget(Forget(initiator="orders", before_us=500))
    await move(await open_(), 1, "db-3")
    assert sharded.map.places[1] == Place("db-1")
    assert said(await purses.confirm(settle(ids[:6]))) == {}
    assert await purse(sharded, 1) == (90, 0, 10)
    assert said(await purses.try_(tries([(ids[1], 1, 10)]))) == {}
    assert said(await purses.try_(tries([(tx_id(99, 1), 1, 10), (tx_id(99, 2), 2, 10)], sent_us=499))) == {
        0: "too_late",
        1: "too_late",
    }


async def test_what_is_over_is_forgotten_in_all_databases(
    purses: ParticipantService[Any], sharded: ShardedStore
) -> None:
    ids = [tx_id(1 + n, n) for n in range(40)]
    await purses.try_(tries([(t, t % BUCKETS, 1) for t in ids]))
    await purses.try_(tries([(tx_id(100, 1), 1, 1)], sent_us=5000))
    await purses.confirm(settle(ids, sent_us=1001))
    forgotten = await purses.forget(Forget(initiator="orders", before_us=2000, keep=[ids[3]]))
    assert (forgotten.rows, forgotten.more) == (39, False)
    assert await fenced(sharded, "db-3") == [(3, 2)]
    assert (await purses.forget(Forget(initiator="orders", before_us=3000))).rows == 1
    assert await fenced(sharded, "db-1") == [(1, 1)]
    assert said(await purses.confirm(settle(ids, sent_us=1500))) == {}  # echoes
    assert said(await purses.try_(tries([(ids[0], 0, 1)], sent_us=2999))) == {0: "too_late"}
    assert said(await purses.try_(tries([(tx_id(200, 0), 0, 1)], sent_us=3000))) == {}
    other = tries([(ids[0], 0, 1)], sent_us=1)
    assert said(await purses.try_(msgspec.structs.replace(other, initiator="returns"))) == {}


async def test_transactions_over_it(purses: ParticipantService[Any], sharded: ShardedStore, books: Store) -> None:
    count = 300
    ids = [tx_id(1 + n, n * 7) for n in range(count)]
    new = [NewTransaction(t, {Purses.service: Pay(t % BUCKETS, 40)}) for t in ids]
    async with coordinating(books, {Purses.service: purses}) as coordinator:
        outcomes = await coordinator.run(new, begin=placing(*ids))
    taken = sum(outcome.accepted for outcome in outcomes)
    assert taken == sum(min(2, sum(t % BUCKETS == bucket for t in ids)) for bucket in range(BUCKETS))
    sums = [
        await sharded.databases.call(
            name, lambda store: store.fetch_one("SELECT sum(available), sum(frozen), sum(spent) FROM purses")
        )
        for name in sharded.databases.names
    ]
    available, frozen, spent = (sum(int(row[i] or 0) for row in sums if row) for i in range(3))
    assert (available + spent, frozen, spent) == (100 * BUCKETS, 0, 40 * taken)
