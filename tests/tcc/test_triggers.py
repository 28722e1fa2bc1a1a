"""The three ways on which participants hear of a decision, each alone: how it gets there, and what it survives."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from tests.tcc.stage import QUICK, Switch, coordinating, is_, one, stock, until
from tests.tcc.world import Shelf

from dougong.store import Store
from dougong.tcc import CoordinatorSettings, Operator, ParticipantService, RetrySchedule, TransactionState, Triggers

PROMPT = msgspec.structs.replace(
    QUICK, message_delay_s=0.01, message_retry=RetrySchedule(base_s=0.01, cap_s=0.05, attempts=3), drain_s=0.0
)
ONLY = {
    name: msgspec.structs.replace(PROMPT, triggers=Triggers(**{t: t == name for t in ("call", "message", "scan")}))
    for name in ("call", "message", "scan")
}


async def messages(books: Store) -> list[Any]:
    return await books.fetch_all("SELECT attempts, dead_us IS NOT NULL FROM dougong_queue")


@pytest.mark.parametrize("trigger", ["call", "message", "scan"])
async def test_each_alone_is_enough(
    trigger: str, books: Store, shelf: ParticipantService[Any], shelf_store: Store
) -> None:
    async with coordinating(books, {Shelf.service: shelf}, ONLY[trigger]) as coordinator:
        outcomes = await coordinator.run([one(1), one(2), one(3, 99)])
        assert [outcome.accepted for outcome in outcomes] == [True, True, False]
        await is_(books, 1, TransactionState.CONFIRMED)
        await is_(books, 2, TransactionState.CONFIRMED)
        if trigger == "message":
            await until(lambda: _is(books, []))
        assert await messages(books) == []
    assert await stock(shelf_store) == (8, 0, 2)


@pytest.mark.parametrize("trigger", ["message", "scan"])
async def test_these_survive_the_process(
    trigger: str, books: Store, shelf: ParticipantService[Any], shelf_store: Store
) -> None:
    """The first coordinator decides and is gone before it tells anybody; the second never heard of it."""
    mute = msgspec.structs.replace(ONLY[trigger], message_delay_s=1000.0)
    mute = msgspec.structs.replace(mute, triggers=Triggers(call=True, message=trigger == "message", scan=False))
    switch = Switch(shelf)
    async with coordinating(books, {Shelf.service: switch}, mute) as coordinator:
        await coordinator.hold([one(1)], expires_s=60.0)
        switch.hangs = True
        await coordinator.confirm([1])
    await books.write(lambda tx: tx.execute("UPDATE dougong_queue SET due_us = 0"))  # two seconds have passed
    assert await coordinator.state(1) is TransactionState.CONFIRMING
    async with coordinating(books, {Shelf.service: shelf}, ONLY[trigger]):
        await is_(books, 1, TransactionState.CONFIRMED)
    assert await stock(shelf_store) == (9, 0, 1)


async def test_a_call_does_not_survive_its_process(
    books: Store, shelf: ParticipantService[Any], shelf_store: Store
) -> None:
    switch = Switch(shelf)
    async with coordinating(books, {Shelf.service: switch}, ONLY["call"]) as coordinator:
        await coordinator.hold([one(1)], expires_s=60.0)
        switch.hangs = True
        await coordinator.confirm([1])
    async with coordinating(books, {Shelf.service: shelf}, ONLY["call"]) as again:
        await again.run([one(2)])
        await is_(books, 2, TransactionState.CONFIRMED)
        assert await again.state(1) is TransactionState.CONFIRMING, "nobody is left who knows"
    assert await stock(shelf_store) == (8, 1, 1)


async def test_a_message_is_a_dead_letter_after_its_last_attempt_and_can_be_revived(
    books: Store, shelf: ParticipantService[Any], shelf_store: Store
) -> None:
    switch = Switch(shelf)
    settings: CoordinatorSettings = msgspec.structs.replace(
        ONLY["message"], retry=RetrySchedule(base_s=0.001, cap_s=0.002, attempts=10_000)
    )
    async with coordinating(books, {Shelf.service: switch}, settings) as coordinator:
        await coordinator.hold([one(1)], expires_s=60.0)
        switch.broken = True
        await coordinator.confirm([1])
        await until(lambda: _is(books, [(3, 1)]))
        (dead,) = await Operator(books).dead_letters()
        assert (dead.transactions, dead.attempts) == ((1,), 3)
        assert "not settled" in dead.failure
    switch.broken = False
    async with coordinating(books, {Shelf.service: switch}, settings):
        await asyncio.sleep(0)
        assert await Operator(books).revive() == 1
        await is_(books, 1, TransactionState.CONFIRMED)
        await until(lambda: _is(books, []))
    assert await stock(shelf_store) == (9, 0, 1)


async def test_a_dead_letter_whose_transactions_were_settled_after_all_goes(
    books: Store, shelf: ParticipantService[Any]
) -> None:
    async with coordinating(books, {Shelf.service: shelf}) as coordinator:
        await coordinator.hold([one(1), one(2)], expires_s=60.0)
        messenger = coordinator._messenger
        await books.write(lambda tx: messenger.put(tx, [1, 2]))
        await books.write(lambda tx: tx.execute("UPDATE dougong_queue SET due_us = NULL, dead_us = 1"))
        await coordinator.confirm([1, 2])
        await is_(books, 1, TransactionState.CONFIRMED)
        await is_(books, 2, TransactionState.CONFIRMED)
        assert len(await Operator(books).dead_letters()) == 1
        assert await messenger.sweep() == 1
        assert await Operator(books).dead_letters() == []


async def _is(books: Store, wanted: list[Any]) -> bool:
    return await messages(books) == wanted
