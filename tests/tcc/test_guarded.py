"""Participants that do not answer: left alone, asked again, and no transaction pays for their absence."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from tests.tcc.stage import QUICK, Switch, both, coordinating, is_, one, stock, until
from tests.tcc.world import Purse, Shelf

from dougong.mesh import BreakerPolicy
from dougong.rpc import call_scope
from dougong.store import Store
from dougong.tcc import Operator, ParticipantService, RetrySchedule, TransactionState

PATIENT = msgspec.structs.replace(
    QUICK,
    breaker=BreakerPolicy(failures=3, open_s=30.0, open_s_max=30.0),
    try_timeout_s=0.05,
    drain_s=0.0,
)
BRISK = msgspec.structs.replace(QUICK, breaker=BreakerPolicy(failures=3, open_s=0.02, factor=1.0, open_s_max=0.02))


async def test_one_that_hangs_is_left_alone(
    books: Store, shelf: ParticipantService[Any], purse: ParticipantService[Any], shelf_store: Store
) -> None:
    hanging = Switch(purse)
    hanging.hangs = True
    settings = msgspec.structs.replace(PATIENT, try_timeout_s=1.0)  # the other one has to answer within it
    async with coordinating(books, {Shelf.service: shelf, Purse.service: hanging}, settings) as coordinator:
        for i in (1, 2, 3):
            assert (await coordinator.run([both(i)]))[0].code == "unavailable"
        tries = [call for call, _ in hanging.calls].count("try")
        outcomes = await coordinator.run([both(i) for i in range(4, 8)])
        assert {outcome.code for outcome in outcomes} == {"unavailable"}
        assert "did not answer lately" in outcomes[0].message
        assert [call for call, _ in hanging.calls].count("try") == tries, "nobody waited for it"
        (only,) = await coordinator.run([one(99)])
        assert only.accepted, "who does not need it goes on"


async def test_an_outage_parks_nothing_and_ends_by_itself(
    books: Store, shelf: ParticipantService[Any], shelf_store: Store
) -> None:
    switch = Switch(shelf)
    settings = msgspec.structs.replace(BRISK, retry=RetrySchedule(base_s=0.001, cap_s=0.002, attempts=4))
    async with coordinating(books, {Shelf.service: switch}, settings) as coordinator:
        await coordinator.hold([one(1), one(2)], expires_s=60.0)
        switch.down = True
        await coordinator.confirm([1, 2])

        async def asked_often() -> bool:
            return len([1 for call, _ in switch.calls if call == "confirm"]) > 12

        await until(asked_often)
        assert await coordinator.state(1) is TransactionState.CONFIRMING, "many more calls than the budget has"
        switch.down = False
        await is_(books, 1, TransactionState.CONFIRMED)
        await is_(books, 2, TransactionState.CONFIRMED)
    assert await stock(shelf_store) == (8, 0, 2)


async def test_a_poison_among_healthy_ones_is_parked_and_opens_nothing(
    books: Store, shelf: ParticipantService[Any], shelf_store: Store
) -> None:
    shelf._participant.poison = frozenset({1})  # type: ignore[attr-defined]
    async with coordinating(books, {Shelf.service: shelf}, BRISK) as coordinator:
        outcomes = await asyncio.gather(*(coordinator.run([one(i)]) for i in range(1, 8)))
        assert all(outcome.accepted for (outcome,) in outcomes)
        await is_(books, 1, TransactionState.PARKED_CONFIRMING)
        for i in range(2, 8):
            await is_(books, i, TransactionState.CONFIRMED)
        assert (await Operator(books).show(1)).failure.startswith(f"{Shelf.service}: ")
    assert await stock(shelf_store) == (3, 1, 6)


async def test_who_was_not_asked_holds_nothing_and_fills_nothing(
    books: Store, shelf: ParticipantService[Any], purse: ParticipantService[Any]
) -> None:
    away = Switch(purse)
    away.down = True
    settings = msgspec.structs.replace(PATIENT, unfinished_max=20)
    async with coordinating(books, {Shelf.service: shelf, Purse.service: away}, settings) as coordinator:
        for i in (1, 2, 3):
            await coordinator.run([both(i)])
        for start in range(10, 90, 10):
            outcomes = await coordinator.run([both(i, "a", 1) for i in range(start, start + 5)])
            assert {outcome.code for outcome in outcomes} == {"unavailable"}
            await is_(books, start, TransactionState.CANCELLED)
        assert (await coordinator.run([one(99)]))[0].accepted


async def test_calls_given_no_time_say_nothing_about_a_participant(
    books: Store, shelf: ParticipantService[Any]
) -> None:
    slow = Switch(shelf)
    slow.hangs = True
    settings = msgspec.structs.replace(PATIENT, try_timeout_s=10.0)
    async with coordinating(books, {Shelf.service: slow}, settings) as coordinator:
        for i in range(1, 7):
            with call_scope(timeout_s=0.01):
                assert (await coordinator.run([one(i)]))[0].code == "unavailable"
        slow.hangs = False
        assert (await coordinator.run([one(9)]))[0].accepted
