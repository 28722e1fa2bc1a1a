"""Holds: tried now, confirmed or cancelled by the initiator's word later, or given back when their time is over."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from tests.tcc.stage import QUICK, Switch, both, coordinating, is_, one, orders, placing, stock, until, write_down
from tests.tcc.world import Purse, Shelf

from dougong.clock import ManualClock
from dougong.errors import Conflict, Invalid, NotFound
from dougong.store import Store, Tx
from dougong.tcc import Decision, Operator, ParticipantService, TransactionState
from dougong.tcc.wire import BranchReply, TryBatch

HOUR_S = 3600.0


async def test_what_is_held_waits_for_the_word(
    books: Store,
    shelf: ParticipantService[Any],
    purse: ParticipantService[Any],
    shelf_store: Store,
    purse_store: Store,
) -> None:
    async with coordinating(books, {Shelf.service: shelf, Purse.service: purse}) as coordinator:
        outcomes = await coordinator.hold([both(1), both(2, "a", 99)], expires_s=HOUR_S, begin=placing(1, 2))
        assert outcomes[0] == Decision(1, True, held=True)
        assert (outcomes[1].accepted, outcomes[1].held, outcomes[1].code) == (False, False, "insufficient_stock")
        assert await stock(shelf_store) == (9, 1, 0)
        assert await coordinator.state(1) is TransactionState.HELD
        assert await coordinator.confirm([1]) == [Decision(1, True)]
        await is_(books, 1, TransactionState.CONFIRMED)
        assert await stock(shelf_store) == (9, 0, 1)
        assert await stock(purse_store) == (9, 0, 1)
        assert await orders(books) == {1: "confirmed", 2: "insufficient_stock"}


async def test_given_back(books: Store, shelf: ParticipantService[Any], shelf_store: Store) -> None:
    async with coordinating(books, {Shelf.service: shelf}) as coordinator:
        await coordinator.hold([one(1), one(2)], expires_s=HOUR_S, begin=placing(1, 2))
        outcomes = await coordinator.cancel([1, 2], code="declined", message="the card was declined")
        assert outcomes == [Decision(i, False, "declined", "the card was declined") for i in (1, 2)]
        await is_(books, 1, TransactionState.CANCELLED)
        await is_(books, 2, TransactionState.CANCELLED)
        assert await stock(shelf_store) == (10, 0, 0)
        assert await orders(books) == {1: "declined", 2: "declined"}


async def test_one_word_counts(books: Store, shelf: ParticipantService[Any], shelf_store: Store) -> None:
    decided: list[Decision] = []

    async def decide(tx: Tx, decisions: Sequence[Decision]) -> None:
        await write_down(tx, decisions)
        decided.extend(decisions)

    async with coordinating(books, {Shelf.service: shelf}, decide=decide) as coordinator:
        await coordinator.hold([one(1)], expires_s=HOUR_S, begin=placing(1))
        both_ways = await asyncio.gather(coordinator.confirm([1]), coordinator.cancel([1]), coordinator.confirm([1]))
        assert len({outcome for (outcome,) in both_ways}) == 1
        assert await coordinator.run([one(1)]) == both_ways[0], "and an old run is answered alike"
        assert decided == [Decision(1, True, held=True), both_ways[0][0]]
        await until(lambda: _settled(books))
        assert await stock(shelf_store) in {(9, 0, 1), (10, 0, 0)}


async def test_rows_of_the_initiator_move_with_the_decision(
    books: Store, shelf: ParticipantService[Any], shelf_store: Store
) -> None:
    seen: list[Sequence[Decision]] = []

    async def paid(tx: Tx, decisions: Sequence[Decision]) -> None:
        seen.append(decisions)
        await tx.execute_many("UPDATE orders SET state = 'paid' WHERE id = ?", [(d.transaction,) for d in decisions])

    async def refuse(tx: Tx, decisions: Sequence[Decision]) -> None:
        raise Conflict("not so", code="not_so")

    async with coordinating(books, {Shelf.service: shelf}) as coordinator:
        await coordinator.hold([one(1)], expires_s=HOUR_S, begin=placing(1))
        with pytest.raises(Conflict, match="not so"):
            await coordinator.confirm([1], also=refuse)
        assert await coordinator.state(1) is TransactionState.HELD
        assert (await orders(books))[1] == "confirmed", "what decide wrote of the hold; nothing of the confirm is kept"
        await coordinator.confirm([1], also=paid)
        await coordinator.confirm([1], also=paid)
        assert seen == [[Decision(1, True)], []], "the second word decided nothing"
        assert await orders(books) == {1: "paid"}


async def test_time_is_over(books: Store, shelf: ParticipantService[Any], shelf_store: Store) -> None:
    clock = ManualClock()
    settings = msgspec.structs.replace(QUICK, retention_s=1e6)
    async with coordinating(books, {Shelf.service: shelf}, settings, clock=clock) as coordinator:
        await coordinator.hold([one(1), one(2)], expires_s=1800.0, begin=placing(1, 2))
        clock.advance(1799.0)
        assert await coordinator._recovery.claim() == 0
        clock.advance(2.0)
        await is_(books, 1, TransactionState.CANCELLED)
        await is_(books, 2, TransactionState.CANCELLED)
        assert [o.code for o in await coordinator.confirm([1, 2])] == ["expired", "expired"]
        assert await stock(shelf_store) == (10, 0, 0)
        assert await orders(books) == {1: "expired", 2: "expired"}


async def test_a_hold_survives_its_coordinator(
    books: Store, shelf: ParticipantService[Any], shelf_store: Store
) -> None:
    async with coordinating(books, {Shelf.service: shelf}) as first:
        await first.hold([one(1), one(2)], expires_s=HOUR_S, begin=placing(1, 2))
    async with coordinating(books, {Shelf.service: shelf}) as second:
        assert await second.hold([one(1)], expires_s=HOUR_S) == [Decision(1, True, held=True)]
        await second.confirm([1])
        await is_(books, 1, TransactionState.CONFIRMED)
        assert await stock(shelf_store) == (8, 1, 1)


async def test_a_clock_that_was_moved_back_holds_nothing_for_ever(
    books: Store, shelf: ParticipantService[Any], shelf_store: Store
) -> None:
    clock = ManualClock()
    clock.advance(30 * 86_400.0)
    settings = msgspec.structs.replace(QUICK, retention_s=1e9)
    async with coordinating(books, {Shelf.service: shelf}, settings, clock=clock) as coordinator:
        await coordinator.hold([one(1)], expires_s=60.0, begin=placing(1))
    earlier = ManualClock()
    async with coordinating(books, {Shelf.service: shelf}, settings, clock=earlier):
        await is_(books, 1, TransactionState.CANCELLED)
    assert await stock(shelf_store) == (10, 0, 0)


async def test_words_about_nothing(books: Store, shelf: ParticipantService[Any]) -> None:
    hanging = Switch(shelf)
    async with coordinating(books, {Shelf.service: hanging}) as coordinator:
        with pytest.raises(NotFound, match="there is no transaction 7"):
            await coordinator.confirm([7])
        with pytest.raises(Invalid, match="at most"):
            await coordinator.hold([one(1)], expires_s=1e9)
        hanging.hangs = True
        running = asyncio.create_task(coordinator.hold([one(1)], expires_s=60.0))
        await is_(books, 1, TransactionState.TRYING)
        with pytest.raises(Conflict, match="still being tried"):
            await coordinator.confirm([1])
        hanging.hangs = False
        assert (await running)[0].code == "unavailable"
        assert await coordinator.confirm([]) == []


async def test_an_operator_gives_a_hold_back(books: Store, shelf: ParticipantService[Any], shelf_store: Store) -> None:
    async with coordinating(books, {Shelf.service: shelf}) as coordinator:
        await coordinator.hold([one(1)], expires_s=HOUR_S, begin=placing(1))
        (listed,) = await Operator(books).list()
        assert (listed.state, listed.due_us) == (TransactionState.HELD, None)
        assert listed.expires_us is not None
        await Operator(books).cancel(1)
        await is_(books, 1, TransactionState.CANCELLED)
        assert await stock(shelf_store) == (10, 0, 0)
        assert (await coordinator.confirm([1]))[0].code == "cancelled"


@pytest.mark.parametrize("operator", [False, True])
async def test_what_was_overdue_while_it_was_tried_is_held_by_now(
    books: Store, shelf: ParticipantService[Any], shelf_store: Store, operator: bool
) -> None:
    """Recovery finds it overdue (its clock is ahead, or the run slow); before it can refuse it, the run holds it."""
    gate = _Gate(shelf)
    settings = msgspec.structs.replace(QUICK, try_timeout_s=30.0, scan_every_s=HOUR_S)
    async with coordinating(books, {Shelf.service: gate}, settings) as coordinator:
        running = asyncio.create_task(coordinator.hold([one(1)], expires_s=HOUR_S, begin=placing(1)))
        await is_(books, 1, TransactionState.TRYING)
        if operator:
            await Operator(books).cancel(1)
        far = 1 << 62
        overdue = await books.write(lambda tx: coordinator._log.claim(tx, far, far, far, "somebody else", far))
        gate.open.set()
        assert await running == [Decision(1, True, held=True)]
        await coordinator._recovery._expire(overdue)
        if operator:
            await is_(books, 1, TransactionState.CANCELLED)
            assert await orders(books) == {1: "cancelled"}
            return
        assert await coordinator.state(1) is TransactionState.HELD
        assert await stock(shelf_store) == (9, 1, 0)
        assert await coordinator.confirm([1]) == [Decision(1, True)]


class _Gate(Switch):
    """A participant that answers when it is told to."""

    def __init__(self, service: ParticipantService[Any]) -> None:
        super().__init__(service)
        self.open = asyncio.Event()

    async def try_(self, request: TryBatch) -> BranchReply:
        await self.open.wait()
        return await super().try_(request)


async def test_the_same_word_twice_in_one_call(books: Store, shelf: ParticipantService[Any]) -> None:
    async with coordinating(books, {Shelf.service: shelf}) as coordinator:
        await coordinator.hold([one(1)], expires_s=HOUR_S)
        assert await coordinator.confirm([1, 1]) == [Decision(1, True)] * 2


async def test_a_hold_that_only_a_word_ends(books: Store, shelf: ParticipantService[Any], shelf_store: Store) -> None:
    clock = ManualClock()
    async with coordinating(books, {Shelf.service: shelf}, clock=clock) as coordinator:
        await coordinator.hold([one(1)], expires_s=math.inf, begin=placing(1))
        clock.advance(400 * 86_400.0)
        assert await coordinator._recovery.claim() == 0
        clock.set_now_us(1)
        assert await coordinator._recovery.claim() == 0
        assert await coordinator.state(1) is TransactionState.HELD
        assert await coordinator.confirm([1]) == [Decision(1, True)]
        await is_(books, 1, TransactionState.CONFIRMED)
        assert await stock(shelf_store) == (9, 0, 1)


async def test_an_operator_who_cancels_while_a_hold_is_tried_is_heard(
    books: Store, shelf: ParticipantService[Any], shelf_store: Store
) -> None:
    rarely = msgspec.structs.replace(QUICK, scan_every_s=1000.0)
    switch = Switch(shelf)
    tried, answer = asyncio.Event(), asyncio.Event()
    original = switch.try_

    async def try_(request: TryBatch) -> BranchReply:
        reply = await original(request)
        tried.set()
        await answer.wait()
        return reply

    switch.try_ = try_  # type: ignore[method-assign]
    async with coordinating(books, {Shelf.service: switch}, rarely) as coordinator:
        running = asyncio.create_task(coordinator.hold([one(1)], expires_s=HOUR_S, begin=placing(1)))
        await tried.wait()
        await Operator(books).cancel(1)
        answer.set()
        await running
        assert await coordinator._recovery.claim() == 1
        await is_(books, 1, TransactionState.CANCELLED)
        assert (await coordinator.confirm([1]))[0].code == "cancelled"
        assert await stock(shelf_store) == (10, 0, 0)


async def _settled(books: Store) -> bool:
    return await books.fetch_one("SELECT 1 FROM dougong_transactions WHERE due_us IS NOT NULL") is None
