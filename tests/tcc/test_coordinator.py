"""Runs, repeats, failures, operators: the coordinator on real databases."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from tests.tcc.stage import QUICK, Switch, both, coordinating, is_, one, orders, placing, stock
from tests.tcc.world import Purse, Shelf, Take

from dougong.clock import ManualClock
from dougong.errors import Conflict, Invalid, NotFound, Overloaded, Unavailable
from dougong.rpc import Caller, MemoryTransport, Server, call_scope, client, close_client, trust_everyone
from dougong.store import Store, Tx
from dougong.tcc import (
    Coordinator,
    CoordinatorSettings,
    Decision,
    NewTransaction,
    Operator,
    ParticipantService,
    TransactionState,
    participant_service,
)
from dougong.tcc.wire import BranchReply, TryBatch


async def test_all_or_nothing(
    books: Store,
    shelf: ParticipantService[Any],
    purse: ParticipantService[Any],
    shelf_store: Store,
    purse_store: Store,
) -> None:
    async with coordinating(books, {Shelf.service: shelf, Purse.service: purse}) as coordinator:
        mixed = [both(1, "a", 4), both(2, "nothing"), both(3, "b", 2), one(4, 1), both(5, "a", 99)]
        outcomes = await coordinator.run(mixed, begin=placing(1, 2, 3, 4, 5))
        assert [(o.transaction, o.accepted, o.code) for o in outcomes] == [
            (1, True, ""),
            (2, False, "insufficient_stock"),
            (3, True, ""),
            (4, True, ""),
            (5, False, "insufficient_stock"),
        ]
    assert await orders(books) == {
        1: "confirmed",
        2: "insufficient_stock",
        3: "confirmed",
        4: "confirmed",
        5: "insufficient_stock",
    }
    assert await stock(shelf_store) == (5, 0, 5)
    assert await stock(purse_store) == (6, 0, 4)
    assert await stock(purse_store, "b") == (8, 0, 2)
    assert await books.fetch_all("SELECT id, state FROM dougong_transactions WHERE state NOT IN (3, 5)") == []


async def test_one_no_gives_the_other_back(
    books: Store, shelf: ParticipantService[Any], purse: ParticipantService[Any], shelf_store: Store, purse_store: Store
) -> None:
    await purse_store.write(lambda tx: tx.execute("UPDATE shelf SET available = 1"))
    async with coordinating(books, {Shelf.service: shelf, Purse.service: purse}) as coordinator:
        (outcome,) = await coordinator.run([both(1, "a", 2)])
        assert (outcome.accepted, outcome.code) == (False, "insufficient_stock")
        await is_(books, 1, TransactionState.CANCELLED)
    assert await stock(shelf_store) == (10, 0, 0)
    assert await stock(purse_store) == (1, 0, 0)


async def test_a_begin_that_fails_leaves_nothing(books: Store, shelf: ParticipantService[Any]) -> None:
    async with coordinating(books, {Shelf.service: shelf}) as coordinator:
        await coordinator.run([one(1)], begin=placing(1))
        with pytest.raises(Conflict):
            await coordinator.run([one(2)], begin=placing(1))
        assert await coordinator.state(2) is None
        assert coordinator._running == 0


async def test_running_again_gives_the_original_outcome(
    books: Store, shelf: ParticipantService[Any], shelf_store: Store
) -> None:
    async with coordinating(books, {Shelf.service: shelf}) as coordinator:
        first = await coordinator.run([one(1, 8), one(2, 8)], begin=placing(1, 2))
        await is_(books, 1, TransactionState.CONFIRMED)
        again = await coordinator.run([one(2, 8), one(1, 8)], begin=placing(2, 1))
        assert [*again] == [first[1], first[0]]
        with pytest.raises(Conflict, match="payload_mismatch"):
            await coordinator.run([one(1, 7)])
        with pytest.raises(Conflict, match="mixed_run"):
            await coordinator.run([one(1, 8), one(3)], begin=placing(1, 3))
        mixed = await coordinator.run([one(1, 8), one(3)])
        assert [o.accepted for o in mixed] == [True, True]
    assert await stock(shelf_store) == (1, 0, 9)


async def test_the_same_transaction_twice_at_once(
    books: Store, shelf: ParticipantService[Any], shelf_store: Store
) -> None:
    async with coordinating(books, {Shelf.service: shelf}) as coordinator:
        answers = await asyncio.gather(*(coordinator.run([one(1, 3)], begin=placing(1)) for _ in range(5)))
        assert {a[0] for a in answers} == {Decision(1, True)}
    assert await stock(shelf_store) == (7, 0, 3)


async def test_who_does_not_answer_is_unavailable_and_told_to_cancel(
    books: Store, shelf: ParticipantService[Any], purse: ParticipantService[Any], shelf_store: Store
) -> None:
    switch = Switch(purse)
    async with coordinating(books, {Shelf.service: shelf, Purse.service: switch}) as coordinator:
        switch.down = True
        (outcome,) = await coordinator.run([both(1)], begin=placing(1))
        assert (outcome.accepted, outcome.code) == (False, "unavailable")
        switch.down = False
        await is_(books, 1, TransactionState.CANCELLED)
        switch.hangs = True
        (outcome,) = await coordinator.run([both(2)], begin=placing(2))
        assert (outcome.accepted, outcome.code) == (False, "unavailable")
        assert (await coordinator.run([one(3)]))[0].accepted  # the others' business goes on
        switch.hangs = False
        assert await orders(books) == {1: "unavailable", 2: "unavailable"}
    assert await stock(shelf_store) == (9, 0, 1)


async def test_what_fails_time_and_again_is_parked_and_goes_on_by_hand(
    books: Store, shelf: ParticipantService[Any], purse: ParticipantService[Any], purse_store: Store
) -> None:
    switch = Switch(purse)
    async with coordinating(books, {Shelf.service: shelf, Purse.service: switch}) as coordinator:
        hold = asyncio.Event()

        async def broken_after_try(tx: Tx) -> None:
            await placing(1, 2)(tx)

        original = switch.try_

        async def try_(request: TryBatch) -> BranchReply:
            reply = await original(request)
            switch.broken = True
            hold.set()
            return reply

        switch.try_ = try_  # type: ignore[method-assign]
        await coordinator.run([both(1), both(2)], begin=broken_after_try)
        await is_(books, 1, TransactionState.PARKED_CONFIRMING)
        await is_(books, 2, TransactionState.PARKED_CONFIRMING)
        listed = await coordinator.operator.list()
        assert [(t.id, t.state, t.attempts) for t in listed] == [
            (1, TransactionState.PARKED_CONFIRMING, 4),
            (2, TransactionState.PARKED_CONFIRMING, 4),
        ]
        assert "broken for now" in listed[0].failure
        assert listed[0].participants == (Purse.service, Shelf.service)
        calls = len(switch.calls)
        await asyncio.sleep(0.3)
        assert len(switch.calls) == calls, "a parked transaction is left alone"
        assert (await coordinator.run([both(1)]))[0].accepted, "parked or not, it was decided"
        switch.broken = False
        assert await Operator(books).retry([1, 2, 77]) == [1, 2]
        await is_(books, 1, TransactionState.CONFIRMED)
        await is_(books, 2, TransactionState.CONFIRMED)
        assert await coordinator.operator.list() == []
    assert await stock(purse_store) == (8, 0, 2)


async def test_a_poison_is_parked_and_the_others_pass(books: Store, shelf_store: Store) -> None:
    class Poisoned(Shelf, service=Shelf.service, payload=Take):
        poison = frozenset({3})

    service = ParticipantService(Poisoned(), shelf_store)
    await service.start()
    await shelf_store.write(lambda tx: tx.execute("UPDATE shelf SET available = 1000"))
    switch = Switch(service)
    async with coordinating(books, {Shelf.service: switch}) as coordinator:
        outcomes = await coordinator.run([one(i) for i in range(1, 101)])
        assert all(o.accepted for o in outcomes)
        await is_(books, 3, TransactionState.PARKED_CONFIRMING)
        await is_(books, 100, TransactionState.CONFIRMED)
        confirms = [count for call, count in switch.calls if call == "confirm"]
        # A call that is late on a busy machine is one more of all; from the first answer on the poison travels alone.
        assert len(confirms) == 4, "its budget"
        assert confirms[0] == 100
        assert confirms[-2:] == [1, 1]
    assert await stock(shelf_store) == (900, 1, 99)


async def test_a_contradiction_is_parked_at_once(
    books: Store, shelf: ParticipantService[Any], shelf_store: Store
) -> None:
    switch = Switch(shelf)
    async with coordinating(books, {Shelf.service: switch}) as coordinator:
        original = switch.try_

        async def try_and_lose(request: TryBatch) -> BranchReply:
            reply = await original(request)
            await shelf_store.write(lambda tx: tx.execute("DELETE FROM dougong_fence"))  # restored from a backup
            return reply

        switch.try_ = try_and_lose  # type: ignore[method-assign]
        await coordinator.run([one(1)])
        await is_(books, 1, TransactionState.PARKED_CONFIRMING)
        assert "confirm_without_try" in (await coordinator.operator.show(1)).failure or switch.calls[1:] == [
            ("confirm", 1)
        ]


async def test_a_crash_after_the_log_cancels_with_the_business_rows(
    books: Store, shelf: ParticipantService[Any], shelf_store: Store
) -> None:
    switch = Switch(shelf)
    switch.hangs = True
    dying = Coordinator(books, initiator="orders", participants={Shelf.service: switch}, settings=QUICK)
    await dying.start()
    run = asyncio.create_task(dying.run([one(1)], begin=placing(1)))
    await is_(books, 1, TransactionState.TRYING)
    for task in [*dying._tasks, *dying._runs, run]:
        task.cancel()
    switch.hangs = False
    async with coordinating(books, {Shelf.service: switch}):
        await is_(books, 1, TransactionState.CANCELLED)
    assert await orders(books) == {1: "unavailable"}
    assert await stock(shelf_store) == (10, 0, 0)


async def test_a_crash_after_the_decision_confirms(
    books: Store, shelf: ParticipantService[Any], shelf_store: Store
) -> None:
    switch = Switch(shelf)
    async with coordinating(books, {Shelf.service: switch}) as dying:
        original = switch.try_

        async def try_(request: TryBatch) -> BranchReply:
            reply = await original(request)
            switch.hangs = True
            return reply

        switch.try_ = try_  # type: ignore[method-assign]
        await dying.run([one(i) for i in range(1, 6)], begin=placing(1, 2, 3, 4, 5))
        for task in dying._tasks:
            task.cancel()
        dying._settler._idle.set()
    switch.hangs = False
    async with coordinating(books, {Shelf.service: shelf}):
        for i in range(1, 6):
            await is_(books, i, TransactionState.CONFIRMED)
    assert await stock(shelf_store) == (5, 0, 5)


async def test_two_coordinators_share_one_log_by_lease(
    books: Store, shelf: ParticipantService[Any], shelf_store: Store
) -> None:
    switch = Switch(shelf)
    settings = CoordinatorSettings(scan_every_s=60.0, lease_s=10.0)
    clock = ManualClock()
    async with (
        coordinating(books, {Shelf.service: switch}, settings, clock=clock) as first,
        coordinating(books, {Shelf.service: switch}, settings, clock=clock) as second,
    ):

        async def left_over(tx: Tx) -> None:
            await first._branch_sets.add(tx, (Shelf.service,))
            now_us = clock.now_us()
            await first._log.insert(tx, [(i, 1, 0, now_us, now_us) for i in range(1, 101)])

        await books.write(left_over)
        clock.advance(1)
        claimed = await asyncio.gather(first._recovery.claim(), second._recovery.claim())
        assert sorted(claimed) == [0, 100]
        assert await second._recovery.claim() == 0
        await is_(books, 100, TransactionState.CANCELLED)
    assert sum(count for call, count in switch.calls if call == "cancel") == 100


async def test_a_clock_set_back_does_not_stop_recovery(books: Store, shelf: ParticipantService[Any]) -> None:
    settings = CoordinatorSettings(scan_every_s=60.0)
    clock = ManualClock()
    async with coordinating(books, {Shelf.service: shelf}, settings, clock=clock) as coordinator:

        async def left_over(tx: Tx) -> None:
            await coordinator._branch_sets.add(tx, (Shelf.service,))
            await coordinator._log.insert(tx, [(1, 1, 0, clock.now_us(), clock.now_us() + 4_000_000)])

        await books.write(left_over)
        assert await coordinator._recovery.claim() == 0
        clock.set_now_us(clock.now_us() - 86_400_000_000)
        assert await coordinator._recovery.claim() == 1
        await is_(books, 1, TransactionState.CANCELLED)


async def test_recovery_of_many(books: Store, shelf: ParticipantService[Any]) -> None:
    async with coordinating(books, {Shelf.service: shelf}) as coordinator:

        async def left_over(tx: Tx) -> None:
            await coordinator._branch_sets.add(tx, (Shelf.service,))
            await coordinator._log.insert(tx, [(i, 1, 0, i, i) for i in range(1, 9001)])

        await books.write(left_over)
        await is_(books, 9000, TransactionState.CANCELLED)
        await is_(books, 1, TransactionState.CANCELLED)
    assert await books.fetch_all("SELECT DISTINCT state FROM dougong_transactions") == [(5,)]


async def test_a_decision_that_cannot_be_written_does_not_hold_up_recovery(
    books: Store, shelf: ParticipantService[Any]
) -> None:
    async def decide(tx: Tx, decisions: Sequence[Decision]) -> None:
        if any(d.transaction == 2 for d in decisions):
            raise ValueError("no order 2")

    async with coordinating(books, {Shelf.service: shelf}) as coordinator:
        coordinator._decider._decide = decide

        async def left_over(tx: Tx) -> None:
            await coordinator._branch_sets.add(tx, (Shelf.service,))
            await coordinator._log.insert(tx, [(i, 1, 0, i, i) for i in range(1, 6)])

        await books.write(left_over)
        for i in (1, 3, 4, 5):
            await is_(books, i, TransactionState.CANCELLED)
        assert await coordinator.state(2) is TransactionState.TRYING


async def test_an_operator_cancels_what_is_undecided_only(
    books: Store, shelf: ParticipantService[Any], shelf_store: Store
) -> None:
    switch = Switch(shelf)
    async with coordinating(books, {Shelf.service: switch}) as coordinator:
        await coordinator.run([one(1)])
        with pytest.raises(Conflict, match="confirm"):
            await coordinator.operator.cancel(1)
        with pytest.raises(NotFound):
            await coordinator.operator.cancel(99)
        switch.hangs = True
        run = asyncio.create_task(coordinator.run([one(2)], begin=placing(2)))
        await is_(books, 2, TransactionState.TRYING)
        await coordinator.operator.cancel(2)
        switch.hangs = False  # for its cancel; its try goes on hanging
        outcome = (await run)[0]  # the run's own decision came too late
        assert (outcome.accepted, outcome.code) == (False, "cancelled")
        await is_(books, 2, TransactionState.CANCELLED)
        assert await orders(books) == {2: "cancelled"}
    assert await stock(shelf_store) == (9, 0, 1)


async def test_too_much_unfinished_is_refused(books: Store, shelf: ParticipantService[Any]) -> None:
    settings = CoordinatorSettings(unfinished_max=3)
    async with coordinating(books, {Shelf.service: shelf}, settings) as coordinator:
        assert all(o.accepted for o in await coordinator.run([one(i) for i in range(1, 6)]))
        await coordinator._settler.drain(5)
        runs = await asyncio.gather(
            coordinator.run([one(6), one(7)]), coordinator.run([one(8), one(9)]), return_exceptions=True
        )
        assert isinstance(runs[1], Overloaded)
        await coordinator._settler.drain(5)
        assert (await coordinator.run([one(10)]))[0].accepted


async def test_a_caller_that_leaves_does_not_stop_its_run(books: Store, shelf: ParticipantService[Any]) -> None:
    async with coordinating(books, {Shelf.service: shelf}) as coordinator:
        run = asyncio.create_task(coordinator.run([one(1)], begin=placing(1)))
        await asyncio.sleep(0)
        run.cancel()
        await is_(books, 1, TransactionState.CONFIRMED)
    assert await orders(books) == {1: "confirmed"}


@pytest.mark.parametrize(
    "transactions",
    [
        [NewTransaction(0, {Shelf.service: Take("a", 1)})],
        [NewTransaction(1 << 63, {Shelf.service: Take("a", 1)})],
        [one(1), one(1)],
        [NewTransaction(1, {})],
        [one(2), NewTransaction(1, {})],
        [NewTransaction(1, {"test.v1.Nobody": Take("a", 1)})],
    ],
)
async def test_what_cannot_be_run(
    books: Store, shelf: ParticipantService[Any], transactions: list[NewTransaction]
) -> None:
    async with coordinating(books, {Shelf.service: shelf}) as coordinator:
        with pytest.raises(Invalid):
            await coordinator.run(transactions)
        assert await coordinator.operator.list() == []


async def test_a_log_has_one_initiator(books: Store, shelf: ParticipantService[Any]) -> None:
    async with coordinating(books, {Shelf.service: shelf}):
        pass
    other = Coordinator(books, initiator="returns", participants={Shelf.service: shelf})
    with pytest.raises(Invalid, match="belongs to initiator 'orders'"):
        await other.start()
    with pytest.raises(Unavailable):
        await other.run([one(1)])


async def test_what_is_over_is_forgotten_on_both_sides(
    books: Store, shelf: ParticipantService[Any], shelf_store: Store
) -> None:
    clock = ManualClock()
    settings = CoordinatorSettings(retention_s=100.0, scan_every_s=0.02)
    async with coordinating(books, {Shelf.service: shelf}, settings, clock=clock) as coordinator:
        await coordinator.run([one(1), one(2, 99)])
        await is_(books, 1, TransactionState.CONFIRMED)
        clock.advance(50)
        await coordinator.run([one(3)])
        await is_(books, 3, TransactionState.CONFIRMED)
        await coordinator._recovery.forget_once()
        assert len(await shelf_store.fetch_all("SELECT * FROM dougong_fence")) == 3
        clock.advance(60)
        await coordinator._recovery.forget_once()
        assert await coordinator.state(1) is None
        assert await coordinator.state(3) is TransactionState.CONFIRMED
        assert await shelf_store.fetch_all("SELECT transaction_id FROM dougong_fence") == [(3,)]
    clock.set_now_us(clock.now_us() - 1_000_000_000)  # the machine comes up with a clock that is wrong
    async with coordinating(books, {Shelf.service: shelf}, settings, clock=clock) as coordinator:
        assert (await coordinator.run([one(4)]))[0].accepted, "new transactions do not look like old ones"


async def test_over_rpc_with_the_same_code(
    books: Store, shelf: ParticipantService[Any], purse: ParticipantService[Any], shelf_store: Store, purse_store: Store
) -> None:
    transport = MemoryTransport()
    server = Server([shelf, purse], authenticator=trust_everyone, transport=transport)
    address = await server.start("127.0.0.1:0")
    clients = {kind.service: client(participant_service(kind), address, transport=transport) for kind in (Shelf, Purse)}
    async with coordinating(books, dict(clients)) as coordinator:
        with call_scope(caller=Caller("a user"), timeout_s=5):
            outcomes = await asyncio.gather(*(coordinator.run([both(i), both(i + 100, "x")]) for i in range(1, 6)))
        assert [[o.accepted for o in run] for run in outcomes] == [[True, False]] * 5
    for made in clients.values():
        await close_client(made)
    await server.stop()
    assert await stock(shelf_store) == (5, 0, 5)
    assert await stock(purse_store) == (5, 0, 5)
