"""Databases that are full, locked or gone for a while, and participants that answer nonsense: nothing is lost."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from tests.tcc.stage import QUICK, Switch, both, coordinating, is_, one, orders, placing, stock, until
from tests.tcc.world import SHELF, Purse, Shelf

from dougong.errors import Unavailable
from dougong.store import Migration, Row, Store, Unit, Value, open_store
from dougong.tcc import Operator, ParticipantService, TransactionState
from dougong.tcc.wire import BranchReply, Settle, TryBatch

R = TypeVar("R")
NONSENSE = BranchReply(items=[0, 99], families=["", ""], codes=["no"], messages=[])


class Babbling(Switch):
    """Does what it is asked, and answers nonsense to some calls."""

    nonsense: frozenset[str] = frozenset()

    async def try_(self, request: TryBatch) -> BranchReply:
        reply = await super().try_(request)
        return NONSENSE if "try" in self.nonsense else reply

    async def confirm(self, request: Settle) -> BranchReply:
        reply = await super().confirm(request)
        return NONSENSE if "confirm" in self.nonsense else reply


class Failing:
    """A database that takes no writes for a while, from a certain write on."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.name, self.dialect = store.name, store.dialect
        self.fails_after: int | None = None
        """So many more writes are taken."""

    async def write(self, unit: Unit[R]) -> R:
        if self.fails_after is not None:
            self.fails_after -= 1
            if self.fails_after < 0:
                raise Unavailable("the disk is full", code="disk_full")
        return await self._store.write(unit)

    async def read(self, unit: Unit[R]) -> R:
        return await self._store.read(unit)

    async def fetch_all(self, sql: str, parameters: Sequence[Value] = ()) -> list[Row]:
        return await self._store.fetch_all(sql, parameters)

    async def fetch_one(self, sql: str, parameters: Sequence[Value] = ()) -> Row | None:
        return await self._store.fetch_one(sql, parameters)

    async def migrate(self, owner: str, migrations: Sequence[Migration]) -> int:
        return await self._store.migrate(owner, migrations)

    async def check(self) -> None:
        await self._store.check()

    async def close(self) -> None:
        await self._store.close()


async def test_nonsense_in_answer_to_a_try_is_a_no_and_what_was_taken_goes_back(
    books: Store, shelf: ParticipantService[Any], purse: ParticipantService[Any], shelf_store: Store, purse_store: Store
) -> None:
    babbling = Babbling(purse)
    babbling.nonsense = frozenset({"try"})
    async with coordinating(books, {Shelf.service: shelf, Purse.service: babbling}) as coordinator:
        (outcome,) = await coordinator.run([both(1)], begin=placing(1))
        assert (outcome.accepted, outcome.code) == (False, "bad_reply")
        assert Purse.service in outcome.message
        await is_(books, 1, TransactionState.CANCELLED)
        assert await stock(shelf_store) == (10, 0, 0)
        assert await stock(purse_store) == (10, 0, 0)
        (fine,) = await coordinator.run([one(2)], begin=placing(2))
        assert fine.accepted


async def test_nonsense_in_answer_to_a_confirm_is_asked_again(
    books: Store, shelf: ParticipantService[Any], shelf_store: Store
) -> None:
    babbling = Babbling(shelf)
    babbling.nonsense = frozenset({"confirm"})
    async with coordinating(books, {Shelf.service: babbling}) as coordinator:
        assert (await coordinator.run([one(1)], begin=placing(1)))[0].accepted
        await is_(books, 1, TransactionState.PARKED_CONFIRMING)
        assert "does not fit" in (await Operator(books).show(1)).failure
        babbling.nonsense = frozenset()
        await Operator(books).retry([1])
        await is_(books, 1, TransactionState.CONFIRMED)
        assert await stock(shelf_store) == (9, 0, 1)


@pytest.mark.parametrize("taken", [0, 1])
async def test_a_log_that_is_full_for_a_while(
    taken: int, books: Store, shelf: ParticipantService[Any], shelf_store: Store
) -> None:
    """Full before the log was written: nothing happened. Full before the decision: recovery cancels."""
    failing = Failing(books)
    rarely = msgspec.structs.replace(QUICK, scan_every_s=1000.0)  # a scan is a write, too
    async with coordinating(failing, {Shelf.service: shelf}, rarely) as coordinator:
        assert (await coordinator.run([one(1)], begin=placing(1)))[0].accepted
        await is_(books, 1, TransactionState.CONFIRMED)
        failing.fails_after = taken
        with pytest.raises(Unavailable, match="full"):
            await coordinator.run([one(2)], begin=placing(2))
        failing.fails_after = None
        if taken:

            async def claimed() -> bool:
                return await coordinator._recovery.claim() == 1

            await until(claimed)
            await is_(books, 2, TransactionState.CANCELLED)
            assert (await orders(books))[2] == "unavailable"
            assert (await coordinator.run([one(2)]))[0].code == "unavailable"
        else:
            assert 2 not in await orders(books)
            assert await coordinator.state(2) is None
            assert (await coordinator.run([one(2)], begin=placing(2)))[0].accepted
            await is_(books, 2, TransactionState.CONFIRMED)
    assert await stock(shelf_store) == ((9, 0, 1) if taken else (8, 0, 2))


async def test_results_are_written_down_when_the_disk_is_back(
    books: Store, shelf: ParticipantService[Any], shelf_store: Store
) -> None:
    failing = Failing(books)
    rarely = msgspec.structs.replace(QUICK, scan_every_s=1000.0)  # a scan is a write, too
    async with coordinating(failing, {Shelf.service: shelf}, rarely) as coordinator:
        await coordinator.run([one(7)], begin=placing(7))
        await is_(books, 7, TransactionState.CONFIRMED)
        failing.fails_after = 2  # the log and the decision, but not what became of it
        assert (await coordinator.run([one(1)], begin=placing(1)))[0].accepted

        async def sold() -> bool:
            return bool(await stock(shelf_store) == (8, 0, 2))

        await until(sold)
        assert await coordinator.state(1) is TransactionState.CONFIRMING
        failing.fails_after = None
        await is_(books, 1, TransactionState.CONFIRMED)
    assert await stock(shelf_store) == (8, 0, 2)


async def test_a_participant_whose_disk_is_full(
    books: Store, shelf_store: Store, purse: ParticipantService[Any], purse_store: Store
) -> None:
    failing = Failing(shelf_store)
    service = ParticipantService(Shelf(), failing)
    await service.start()
    async with coordinating(books, {Shelf.service: service, Purse.service: purse}) as coordinator:
        await coordinator.hold([both(1)], expires_s=60.0, begin=placing(1))
        failing.fails_after = 0
        (refused,) = await coordinator.run([both(2)], begin=placing(2))
        assert refused.code == "unavailable"
        await coordinator.confirm([1])
        await asyncio.sleep(0.05)
        assert await coordinator.state(1) is TransactionState.CONFIRMING
        failing.fails_after = None
        await is_(books, 1, TransactionState.CONFIRMED)
        await is_(books, 2, TransactionState.CANCELLED)
    assert await stock(shelf_store) == (9, 0, 1)
    assert await stock(purse_store) == (9, 0, 1)


async def test_a_log_that_another_process_locks(tmp_path: Path) -> None:
    path = tmp_path / "orders.db"
    books, shelf_store = await open_store(f"sqlite:///{path}"), await open_store(f"sqlite:///{tmp_path}/shelf.db")
    await books.migrate("test", [Migration(1, "orders", "CREATE TABLE orders (id BIGINT PRIMARY KEY, state TEXT)")])
    await shelf_store.migrate("test", [Migration(1, "shelf", SHELF)])
    await shelf_store.write(lambda tx: tx.execute("INSERT INTO shelf (sku, available) VALUES ('a', 10)"))
    shelf = ParticipantService(Shelf(), shelf_store)
    await shelf.start()
    async with coordinating(books, {Shelf.service: shelf}) as coordinator:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        running = asyncio.create_task(coordinator.run([one(1)], begin=placing(1)))
        await asyncio.sleep(0.05)
        assert not running.done()
        assert await coordinator.state(1) is None
        other.execute("ROLLBACK")
        other.close()
        assert (await running)[0].accepted
        await is_(books, 1, TransactionState.CONFIRMED)
    assert await stock(shelf_store) == (9, 0, 1)
    await books.close()
    await shelf_store.close()
